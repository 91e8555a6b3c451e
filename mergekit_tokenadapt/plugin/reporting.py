"""The report of a finished transplant, for the command that ran it, or else for mergekit's log."""

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
_LISTENER: ContextVar[Listener | None] = ContextVar("_LISTENER", default=None)


def _nobody(_report: Mapping[str, Any]) -> None:
    """A listener for whom no report has to be made."""


@contextmanager
def reporting_to(listener: Listener | None) -> Iterator[None]:
    """Give the reports of transplants below to `listener`, and log none. With None, none is made."""
    token = _LISTENER.set(listener or _nobody)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(folder: OutputFolder, out: Path) -> None:
    """Report on a folder that was just finished. A report that fails is a warning: the model is there."""
    listener = _LISTENER.get()
    if listener is _nobody:
        return
    try:
        found = change_report(folder.plans[0], folder.base, folder.target, folder.templates().get(DEFAULT))
        found["further_inputs"] = {
            name: token_counts(plan, folder.target)
            for (name, _), plan in zip(folder.inputs[1:], folder.plans[1:], strict=True)
        }
    except Exception as error:  # measures of strange tokenizers must not cost the model that is made
        LOG.warning("no report on %s: %s", out.name, first_line(error))
        return
    if listener is not None:
        listener(found)
    else:
        _log(found, folder, out)


def _log(found: Mapping[str, Any], folder: OutputFolder, out: Path) -> None:
    base = folder.inputs[0][0]
    LOG.info("%s", as_text(found, f"{base} with the tokenizer {folder.target.name}"))
    LOG.info("next: %s; %s", *next_commands(str(out), base))
    if found["digits"]["warning"]:
        LOG.warning("%s", found["digits"]["warning"])
