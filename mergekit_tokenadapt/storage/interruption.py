"""Make SIGTERM and SIGHUP end a command as Ctrl-C does, so that it removes its unfinished files first.

SIGTERM comes from a cluster's time limit, from `timeout` and from `docker stop`; SIGHUP comes when a terminal closes.
By default both end a process at once, and its staging folder would stay behind.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that are handled here. Windows has no SIGHUP."""


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread when a signal asks the process to end; `number` is the signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that caused an exception. A plain ``KeyboardInterrupt`` counts as SIGINT."""
    return signal.Signals(error.number if isinstance(error, Interrupted) else signal.SIGINT)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Inside the ``with`` block, let `SIGNALS` raise `Interrupted` in the main thread.

    Only default handlers are replaced. A signal that the process was started to ignore (`nohup`, a background job of
    a shell) stays ignored, and handlers that a calling program has set stay in place.
    """
    with _handling(_interrupt_in(os.getpid()), lambda before: before in (signal.SIG_DFL, signal.default_int_handler)):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delay signals that have a handler until the ``with`` block has ended.

    Use it around short steps that must not stop halfway, such as two renames that belong together.
    """
    came: list[int] = []
    with _handling(lambda number, _frame: came.append(number), callable) as before:
        yield
    if came and callable(handler := before[came[0]]):
        handler(came[0], None)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Let the first signal that has a handler do no more than be noted in the list; a second one interrupts."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if came:
            raise Interrupted(number)
        came.append(number)

    with _handling(note, callable):
        yield came


Handler = Callable[[int, FrameType | None], object]
"""Python's type of a signal handler: (signal number, frame) -> ignored."""


@contextmanager
def _handling(handler: Handler, replaces: Callable[[object], bool]) -> Iterator[dict[int, object]]:
    """Set a handler for every signal whose present handler satisfies `replaces`, and put the old ones back at the end.

    Yields:
        Signal number -> the handler before. Empty in other threads, because only the main thread may set handlers.
    """
    before: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    changed = {number: own for number, own in before.items() if replaces(own)}
    try:
        for number in changed:
            signal.signal(number, handler)
        yield before
    finally:
        for number, own in changed.items():
            signal.signal(number, own)  # type: ignore[arg-type]


def _interrupt_in(process: int) -> Handler:
    def interrupt(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker has nothing to clean up, and ends at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Interrupted(number)

    return interrupt
