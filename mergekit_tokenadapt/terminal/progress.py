"""Report progress: bars on a terminal, plain lines in a command's log, nothing with `quiet`.

A bar that goes to a file is thousands of lines, and its remaining time is a guess from the first, quick steps. The log
of one of our commands gets a line when a stage begins, lines with the share done from time to time, and a line when the
stage is over. Other programs that use this package, such as stock mergekit, get no lines that they did not ask for.
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
"""Between two lines of a stage."""


_commands: list[str] = []
"""Not empty while one of our commands runs. No context variable: other libraries read iterators in their threads."""


@contextmanager
def lines_in_logs() -> Iterator[None]:
    """Below this, progress that does not go to a terminal is told in lines."""
    _commands.append("running")
    try:
        yield
    finally:
        _commands.pop()


def shows_progress(*, quiet: bool) -> bool:
    """Whether bars may be drawn."""
    return not quiet and sys.stderr.isatty()


class Bar(Protocol):
    """What our code uses of a bar."""

    n: int
    """Steps done."""

    def __iter__(self) -> Iterator[Any]: ...
    def __enter__(self) -> Bar: ...
    def __exit__(self, *_error: object) -> None: ...
    def update(self, number: int = 1) -> Any:
        """So many more steps are done."""

    def close(self) -> None:
        """The stage is over."""


def progress(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    quiet: bool,
    total: int | None = None,
    unit: str = "it",
    unit_scale: bool = False,
) -> Bar:
    """A bar of tqdm, which a terminal shows, or `Lines` in a command's log; used in the same way."""
    if not quiet and not sys.stderr.isatty() and _commands:
        return Lines(items, desc=desc, total=total)
    silent = True if quiet else None  # None: only in a terminal
    bar: Bar = tqdm(items, desc=desc, total=total, unit=unit, unit_scale=unit_scale, disable=silent)
    return bar


class Lines:
    """A bar as lines on standard error.

    Args:
        items: what is gone through, where the bar counts by itself.
        desc: the stage.
        total: steps, where `items` has no length.
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
        """So many more steps are done."""
        self.n += number
        if self._total and time.monotonic() - self._shown_at >= SECONDS:
            self._shown_at = time.monotonic()
            _say(f"{self._desc}: {min(1.0, self.n / self._total):.0%}")

    def close(self) -> None:
        """The stage is over."""
        if not self._is_over:
            self._is_over = True
            _say(f"{self._desc}: 100%")


class Stages:
    """Tells one stage after another, each of which is one step of a known number.

    Args:
        total: stages.
        quiet: tell none.
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
        """A stage begins; those before it are done."""
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
"""mergekit's words for a stage, and ours."""


@contextmanager
def plain_bars(*modules: Any) -> Iterator[None]:
    """In a command's log, lines in the place of bars that modules draw with their global `tqdm`; then as it was."""
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
    """No bar of anything that uses tqdm, whatever it asks for, then as it was."""
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
    """No bar "Loading weights" of transformers, then as it was: callers say themselves what is being done."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
