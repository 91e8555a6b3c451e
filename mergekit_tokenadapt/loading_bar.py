"""Keeping transformers quiet while it loads a model: callers say themselves what is being done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_loading_bar() -> Iterator[None]:
    """No bar "Loading weights", which knows of no ``--quiet`` and goes to files and pipes, too; then as it was."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
