"""Runs commands as a shell would, each in a fork of one process that has imported everything already.

A server: one JSON request a line on standard input, one JSON answer a line on standard output. Its argument says
what it imports: ``ours`` imports what `mergekit-tokenadapt` needs, ``stock`` what `mergekit-yaml` imports by itself,
so that it is left to the command to find the plugin. A request names a console script with its ``arguments``, or
Python ``code``; the folder to run in; and what is to happen to the command while it runs:

- ``kill_at``: SIGKILL just before the n-th time it opens, makes, renames or removes a file below `root`; another
  signal where ``signal`` names one;
- ``kill_after``: SIGKILL after so many seconds;
- ``largest_file``: no file may grow beyond so many bytes, as on a full disk.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

TIMEOUT = 300.0
"""Seconds after which a command counts as hanging."""
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree"}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, run the command, and say how it ended."""
    said = Path(request["root"]) / "said.txt"
    counted = Path(request["root"]) / "events.txt"
    said.unlink(missing_ok=True)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _command(request, said, counted)  # does not return
    limit = request.get("kill_after") or TIMEOUT
    hanging = False
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() - start > limit:
            hanging = not request.get("kill_after")
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": said.read_text(errors="replace") if said.exists() else "",
        "events": int(counted.read_text()) if request.get("count") else None,
        "seconds": time.monotonic() - start,
        "memory": usage.ru_maxrss * 1024,
        "hanging": hanging,
    }


def _command(request: dict[str, Any], said: Path, counted: Path) -> None:
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    code = 1
    try:
        os.environ.update(request.get("env") or {})
        sys.path[:0] = request.get("path") or []
        os.chdir(request.get("cwd") or os.getcwd())
        if request.get("largest_file"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        events = _watch(request["root"], request.get("kill_at"), signal.Signals[request.get("signal", "SIGKILL")])
        if request.get("code"):
            exec(request["code"], {"__name__": "__main__"})
            sys.exit()
        (script,) = entry_points(group="console_scripts", name=request["program"])
        sys.argv = [request["program"], *request["arguments"]]
        sys.exit(script.load()())
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if request.get("count"):
            counted.write_text(str(events[0]))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(root: str, kill_at: int | None, number: signal.Signals) -> list[int]:
    """Count what is done to files below `root`, and end at the n-th of these."""
    events = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not arguments or not str(arguments[0]).startswith(root):
            return
        events[0] += 1
        if events[0] == kill_at:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return events


def import_ours() -> None:
    """What `mergekit-tokenadapt` imports, and the plugin activated."""
    import mergekit_tokenadapt.cli.main
    import mergekit_tokenadapt.cli.transplant
    import mergekit_tokenadapt.correction
    import mergekit_tokenadapt.plugin.planner
    import mergekit_tokenadapt.plugin.transplant
    import mergekit_tokenadapt.supertokens.making  # noqa: F401


def import_stock() -> None:
    """What `mergekit-yaml` and `mergekit-multi` import; of ours nothing but the hook that pydantic loads."""
    import mergekit.scripts.multimerge
    import mergekit.scripts.run_yaml  # noqa: F401
    import rich.table  # noqa: F401

    ours = {name for name in sys.modules if name.startswith("mergekit_tokenadapt")}
    assert ours <= {f"mergekit_tokenadapt{rest}" for rest in ("", ".plugin", ".plugin.pydantic_hook")}, ours


def serve(imports: str) -> None:
    """Import what commands need, then answer requests until standard input ends."""
    {"ours": import_ours, "stock": import_stock}[imports]()
    import sklearn.feature_extraction.text  # noqa: F401
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
