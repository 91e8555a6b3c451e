"""Time and memory of commands and of steps."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""What the environment says to a process that must use one thread."""


def one_thread() -> None:
    """Let this process, and the processes that it starts, compute with one thread.

    The environment alone would come too late for libraries that are loaded already.
    """
    os.environ |= ONE_THREAD
    torch.set_num_threads(1)
    threadpool_limits(1)


# --- a process of its own ------------------------------------------------------------------------

T = TypeVar("T")


def in_own_process(function: Callable[[str], T], key: str) -> T:
    """Call the function with the key in a fresh process, whose memory nothing else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (key,))


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- a watched process ---------------------------------------------------------------------------

EVERY = 0.02
"""Seconds between two samples of a process's memory."""
FIELDS = ("VmHWM", "VmRSS", "RssAnon", "RssFile")


class CommandFailedError(Exception):
    """A watched command failed. The message is what it printed."""


def watched(
    command: Sequence[str], environment: dict[str, str] | None = None, max_cpu: int | None = None
) -> dict[str, Any]:
    """Run a command to its end, or for `max_cpu` seconds of CPU time, and sample its memory.

    Files in the safetensors format are mapped: the parts that are read count as resident, but the kernel can reclaim
    them at any time. `RssAnon` is the memory that the process really holds.

    Returns:
        Seconds of wall and CPU time, the highest value of each of `FIELDS` in bytes, and `samples`:
        (time.monotonic(), RssAnon).

    Raises:
        CommandFailedError: its exit code is not 0, or it took too long.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=errors, stderr=errors)
        if max_cpu is not None:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (max_cpu, max_cpu))
        highest, samples = dict.fromkeys(FIELDS, 0), []
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            found = _status(process.pid)
            highest = {name: max(value, found.get(name, 0)) for name, value in highest.items()}
            samples.append((time.monotonic(), found.get("RssAnon", 0)))
            time.sleep(EVERY)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode == -signal.SIGKILL and max_cpu is not None:
            raise CommandFailedError(f"stopped after {max_cpu} s of CPU time")
        if process.returncode:
            raise CommandFailedError(errors.read().decode(errors="replace").strip())
    return {
        "seconds": time.monotonic() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": highest,
        "samples": samples,
    }


def _status(pid: int) -> dict[str, int]:
    """The memory lines of /proc/PID/status, in bytes; nothing for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}
