"""`mergekit-tokenadapt` with a clock at the steps of a transplant: run in a process of its own.

    python -m benchmarks.size.stages CLOCK.json transplant BASE TARGET OUT ...

CLOCK.json gets, for every step, the CPU seconds spent in it and in no step inside it, and the stretches of
time.monotonic() in which it was the innermost one.
"""

from __future__ import annotations

import atexit
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mergekit.io.tensor_writer import TensorWriter

import mergekit_tokenadapt.plugin.inputs as inputs
import mergekit_tokenadapt.plugin.planner as planner
import mergekit_tokenadapt.transfer.transfer as transfer
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.output import OutputFolder
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.plan import TransferPlan

STEPS: dict[str, list[tuple[Any, str]]] = {
    "tokenizers": [(planner, "load_tokenizer"), (inputs, "load_tokenizer"), (TokenizerFiles, "vocabulary")],
    "matching": [(transfer.Transfer, "mapping")],
    "pieces": [(transfer.Transfer, "pieces")],
    "space": [(transfer.Transfer, "_vectors")],
    "neighbours": [(transfer, "nearest")],
    "weights": [(transfer, "plan_rows")],
    "applying": [(TransferPlan, "apply")],
    "shards": [(TensorWriter, "_flush_current_shard")],
    "finishing": [(OutputFolder, "finish")],
}
"""Name of each step, and the functions and properties that are it."""


class Clock:
    """Measures the time of each step. A step's time does not include the steps inside it."""

    def __init__(self) -> None:
        self._open: list[str] = ["rest"]
        self._since = (time.monotonic(), 0.0)
        self._seconds: dict[str, float] = {}
        self._stretches: dict[str, list[tuple[float, float]]] = {}

    def _switch(self) -> None:
        now, cpu = time.monotonic(), time.process_time()
        name = self._open[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + cpu - self._since[1]
        self._stretches.setdefault(name, []).append((self._since[0], now))
        self._since = now, cpu

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the clock on it."""

        @functools.wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            self._switch()
            self._open.append(name)
            try:
                return function(*args, **options)
            finally:
                self._switch()
                self._open.pop()

        return wrapper

    def write(self, file: Path) -> None:
        """Stop, and write what was measured."""
        self._switch()
        file.write_text(json.dumps({"seconds": self._seconds, "stretches": self._stretches}))


def watch(clock: Clock) -> None:
    """Put the clock on every step."""
    for name, places in STEPS.items():
        for owner, attribute in places:
            found = vars(owner)[attribute]
            if isinstance(found, functools.cached_property):
                found.func = clock.timed(name, found.func)
            else:
                setattr(owner, attribute, clock.timed(name, found))


if __name__ == "__main__":
    clock = Clock()
    watch(clock)
    atexit.register(clock.write, Path(sys.argv.pop(1)))
    main()
