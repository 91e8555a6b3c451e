"""Report on a finished transplant, to the command that ran it or to mergekit's log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import first_line
from mergekit_tokenadapt.output import OutputFolder
from mergekit_tokenadapt.output.change_report import change_report, token_counts
from mergekit_tokenadapt.output.change_report_text import as_text, next_commands
from mergekit_tokenadapt.tokenizer.chat_templates import DEFAULT

LOG = logging.getLogger(__name__)

Listener = Callable[[Mapping[str, Any]], None]
"""A function that gets the report."""
_LISTENER: ContextVar[Listener | None] = ContextVar("_LISTENER", default=None)
"""The present listener. A context variable keeps transplants in other threads apart."""


def _no_report(_report: Mapping[str, Any]) -> None:
    """Stand for "make no report" as a listener."""


@contextmanager
def reporting_to(listener: Listener | None) -> Iterator[None]:
    """Inside the ``with`` block, give the reports of transplants to `listener` instead of the log.

    With None, no report is made.
    """
    token = _LISTENER.set(listener or _no_report)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(folder: OutputFolder, out: Path) -> None:
    """Make the report on a finished folder. If that fails, log a warning, because the model itself is complete."""
    listener = _LISTENER.get()
    if listener is _no_report:
        return
    try:
        found = change_report(folder.plans[0], folder.base, folder.target, folder.templates().get(DEFAULT))
        found["extension"] = folder.extension
        found["further_inputs"] = {
            name: token_counts(plan, folder.target)
            for (name, _), plan in zip(folder.inputs[1:], folder.plans[1:], strict=True)
        }
    except Exception as error:  # a failing measurement of an unusual tokenizer must not discard the finished model
        LOG.warning("no report on %s: %s", out.name, first_line(error))
        return
    if listener is not None:
        listener(found)
    else:
        _log(found, folder, out)


def _log(found: Mapping[str, Any], folder: OutputFolder, out: Path) -> None:
    base = folder.inputs[0][0]
    LOG.info("%s", as_text(found, f"{base} with the tokenizer {folder.target.name}"))
    if len(folder.inputs) == 1:  # a merge has no one base that it could be compared with
        LOG.info("next: %s; %s", *next_commands(str(out), base))
    if found["digits"]["warning"]:
        LOG.warning("%s", found["digits"]["warning"])
