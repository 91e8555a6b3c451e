"""Signals that end a command end it like Ctrl-C: what is half done is tidied up first.

Without this, SIGTERM (of a cluster's time limit, `timeout` or `docker stop`) and SIGHUP (of a terminal that closes) end
a process on the spot, and its staging folder stays behind.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """The signal behind an exception; Ctrl-C where it does not say."""
    return signal.Signals(error.number if isinstance(error, Interrupted) else signal.SIGINT)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let the signals raise `Interrupted` in the main thread.

    A signal that the process was started to ignore (`nohup`, a shell's background job) stays ignored, and so does
    what a program that calls us has set up.
    """
    with _handling(_interrupt_in(os.getpid()), lambda before: before in (signal.SIG_DFL, signal.default_int_handler)):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let signals that have a handler take effect at the end: for what must not be left half done."""
    came: list[int] = []
    with _handling(lambda number, _frame: came.append(number), callable) as before:
        yield
    if came and callable(handler := before[came[0]]):
        handler(came[0], None)


Handler = Callable[[int, FrameType | None], object]


@contextmanager
def _handling(handler: Handler, replaces: Callable[[object], bool]) -> Iterator[dict[int, object]]:
    """Set a handler for those signals whose own one it `replaces`; gives what they had. In the main thread only."""
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
        if os.getpid() != process:  # a worker that was forked: it has nothing to tidy up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Interrupted(number)

    return interrupt
