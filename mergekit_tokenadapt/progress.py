"""Progress bars of other libraries, which know of no ``--quiet`` and go to files and pipes, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def shows_progress(*, quiet: bool) -> bool:
    """Whether a library may draw its bars."""
    return not quiet and sys.stderr.isatty()


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
