"""What `--quiet` silences: messages of other libraries, unless they are errors. Our own warnings stay."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

OURS = "mergekit_tokenadapt"
LIBRARIES = {
    "transformers": "TRANSFORMERS_VERBOSITY",
    "huggingface_hub": "HF_HUB_VERBOSITY",
    "datasets": "DATASETS_VERBOSITY",
}
"""Libraries whose loggers have handlers of their own, and the variables that set their level when they are imported."""


def is_ours_or_error(record: logging.LogRecord) -> bool:
    """Return whether a log record stays with `--quiet`."""
    return record.name.partition(".")[0] == OURS or record.levelno >= logging.ERROR


@contextmanager
def only_ours() -> Iterator[None]:
    """Inside the ``with`` block, drop log records and warnings of other libraries that are not errors."""
    added = None
    if not logging.root.handlers:
        # mergekit configures the root logger only if it has no handler. The format is that of `logging.basicConfig`.
        added = logging.StreamHandler()
        added.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
        logging.root.addHandler(added)
    filtered, loggers = list(logging.root.handlers), [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    missing = [name for name in LIBRARIES.values() if name not in os.environ]
    for handler in filtered:
        handler.addFilter(is_ours_or_error)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    os.environ.update(dict.fromkeys(missing, "error"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=rf"{OURS}(\.|$)")
            yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for handler in filtered:
            handler.removeFilter(is_ours_or_error)
        if added is not None:
            logging.root.removeHandler(added)
