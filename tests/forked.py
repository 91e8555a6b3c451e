"""The other end of `forking`: commands run from outside, without the seconds that their imports take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


@dataclass(frozen=True)
class Server:
    """A process that forks for each command."""

    process: subprocess.Popen[str]

    def run(self, root: Path, program: str, *arguments: Any, **what: Any) -> Ended:
        """A console script. `root` keeps what it says; `what` is what `forking` takes."""
        return self._ask(root, program=program, arguments=[str(a) for a in arguments], **what)

    def python(self, root: Path, code: str, **what: Any) -> str:
        """What a piece of code prints."""
        ended = self._ask(root, code=code, **what)
        assert ended.code == 0, ended.said
        return ended.said.strip()

    def _ask(self, root: Path, **request: Any) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"root": str(root), **request}), file=self.process.stdin, flush=True)
        return Ended(**json.loads(self.process.stdout.readline()))


@contextmanager
def serving(imports: str, **environment: str) -> Iterator[Server]:
    """A server that has imported ``ours`` or ``stock``."""
    script = Path(__file__).with_name("forking.py")
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **environment}
    with subprocess.Popen(
        [sys.executable, str(script), imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True}
        yield Server(process)
        process.kill()  # to end by itself would take it seconds
