"""Progress reports: bars on a terminal, plain lines in a command's log, nothing with `quiet`.

A progress bar in a log file becomes thousands of lines. Our commands therefore write plain lines when standard error is
not a terminal: one when a stage begins, one with the share done every `SECONDS`, and one when the stage ends. Other
programs that use this package, such as stock mergekit, get no such lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

from tqdm import tqdm

SECONDS = 15.0
"""Shortest time between two lines of one stage, in seconds."""


_commands: list[str] = []
"""Has one entry for each running command of ours. An empty list means that another program is running.

A context variable would not do: other libraries consume our iterators in threads of their own, which do not inherit it.
"""


@contextmanager
def lines_in_logs() -> Iterator[None]:
    """Inside the ``with`` block, write progress as plain lines where standard error is not a terminal."""
    _commands.append("running")
    try:
        yield
    finally:
        _commands.pop()


def shows_progress(*, quiet: bool) -> bool:
    """Return whether progress bars may be drawn: standard error is a terminal, and `quiet` is false."""
    return not quiet and sys.stderr.isatty()


class Bar(Protocol):
    """The part of tqdm's interface that our code uses."""

    n: int
    """Number of steps done."""

    def __iter__(self) -> Iterator[Any]: ...
    def __enter__(self) -> Bar: ...
    def __exit__(self, *_error: object) -> None: ...
    def update(self, number: int = 1) -> Any:
        """Add `number` to the steps done."""

    def close(self) -> None:
        """End the stage."""


def progress(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    quiet: bool,
    total: int | None = None,
    unit: str = "it",
    unit_scale: bool = False,
) -> Bar:
    """Return a tqdm bar for a terminal, or `Lines` for a command's log. Both have the same interface.

    Args:
        items: the items of the loop; None where the caller counts with `Bar.update`.
        desc: name of the stage.
        quiet: show nothing.
        total: number of steps, where `items` has no length.
        unit: tqdm's name of one step.
        unit_scale: whether tqdm abbreviates large numbers.
    """
    if not quiet and not sys.stderr.isatty() and _commands:
        return Lines(items, desc=desc, total=total)
    silent = True if quiet else None  # with None, tqdm draws only on a terminal
    bar: Bar = tqdm(items, desc=desc, total=total, unit=unit, unit_scale=unit_scale, disable=silent)
    return bar


class Lines:
    """Progress of one stage, written to standard error as plain lines.

    Args:
        items: the items of the loop; None where the caller counts with `update`.
        desc: name of the stage.
        total: number of steps, where `items` has no length.
    """

    def __init__(self, items: Iterable[Any] | None = None, *, desc: str, total: int | None = None) -> None:
        self._items = () if items is None else items
        self._desc, self.n = desc, 0
        self._total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
        self._shown_at, self._is_over = time.monotonic(), False
        _say(desc)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()
        self.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.close()

    def update(self, number: int = 1) -> None:
        """Add `number` to the steps done, and write the share done if the last line is `SECONDS` old."""
        self.n += number
        if self._total and time.monotonic() - self._shown_at >= SECONDS:
            self._shown_at = time.monotonic()
            _say(f"{self._desc}: {min(1.0, self.n / self._total):.0%}")

    def close(self) -> None:
        """End the stage with a line that says 100%; a second call does nothing."""
        if not self._is_over:
            self._is_over = True
            _say(f"{self._desc}: 100%")


class Stages:
    """Progress over a known number of stages; each stage counts as one step.

    Args:
        total: number of stages.
        quiet: show nothing.
    """

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._begun = total, 0
        form = "{percentage:3.0f}% {bar:20} {desc}"
        self._bar = tqdm(total=total, bar_format=form) if shows_progress(quiet=quiet) else None
        self._quiet = quiet

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.update(self._total - self._bar.n if error[0] is None else 0)
            self._bar.close()

    def __call__(self, stage: str) -> None:
        """Begin a stage. All earlier stages then count as done."""
        if self._bar is not None:
            self._bar.set_description_str(stage, refresh=False)
            self._bar.update(self._begun - self._bar.n)
            self._bar.refresh()
        elif not self._quiet:
            _say(f"{min(1.0, self._begun / max(1, self._total)):4.0%}  {stage}")
        self._begun += 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- bars of other libraries -----------------------------------------------------------------------

STAGES = {"Executing graph": "Making the model"}
"""mergekit's name of a stage -> ours. Stages that are not listed here are not shown."""


@contextmanager
def plain_bars(*modules: Any) -> Iterator[None]:
    """Inside the ``with`` block of a command that writes to a log, turn other modules' bars into lines.

    Args:
        modules: modules whose global name ``tqdm`` is the tqdm module. It is replaced, and put back at the end.
    """
    if sys.stderr.isatty() or not _commands:
        yield
        return
    originals = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = SimpleNamespace(tqdm=_lines_for_bar)
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.tqdm = original


def _lines_for_bar(items: Any = None, *, disable: bool = False, desc: str = "", total: int | None = None) -> Any:
    stage = STAGES.get(desc)
    return tqdm(items, total=total, disable=True) if disable or stage is None else Lines(items, desc=stage, total=total)


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside the ``with`` block, disable the bars of every library that uses tqdm."""
    original: Callable[..., None] = tqdm.__init__

    def disabled(bar: Any, *args: Any, **options: Any) -> None:
        original(bar, *args, **{**options, "disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = original


@contextmanager
def without_loading_bar() -> Iterator[None]:
    """Inside the ``with`` block, hide transformers' bar "Loading weights". Our callers report this stage themselves."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
