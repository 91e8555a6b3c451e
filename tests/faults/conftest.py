"""Commands run from outside, so that they can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers_zoo

Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code; minus the signal where it was killed."""
    said: str
    """Standard output and error."""
    events: int | None
    seconds: float
    memory: int
    """Most bytes of main memory in use at once."""
    hanging: bool

    def assert_one_line(self, *parts: str) -> None:
        """Exit code 2, and the last line is the error, which says all `parts`.

        (Where a Rust library panics, it prints some lines of its own before.)
        """
        assert not self.hanging
        assert self.code == 2, self.said
        assert "Traceback" not in self.said
        error = self.said.strip().splitlines()[-1]
        assert error.startswith("Error: "), self.said
        for part in parts:
            assert part in error


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    """One process that has imported everything."""
    script = Path(__file__).with_name("forking.py")
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True}
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(server: subprocess.Popen[str], tmp_path: Path) -> Run:
    """``run("transplant", base, target, out, kill_at=7)``: an `Ended`."""

    def run_command(*arguments: Any, **what: Any) -> Ended:
        environment = {"MERGEKIT_TOKENADAPT_CACHE": str(what.pop("cache", tmp_path / "cache"))}
        request = {"arguments": [str(a) for a in arguments], "root": str(tmp_path), "env": environment, **what}
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        return Ended(**json.loads(server.stdout.readline()))

    return run_command


@pytest.fixture
def base(tmp_path: Path, byte_level_folder: Path) -> Path:
    """A tiny tied model of this test's own, with the byte-level tokenizer."""
    return tokenizers_zoo.tiny_model_folder(byte_level_folder, tmp_path / "base")
