"""Parts that several reports share: the scored texts, and the marks of texts that a tokenizer does not preserve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mergekit_tokenadapt.terminal.tables import add_table


def print_texts(console: Console, texts: Sequence[dict[str, Any]], title: str = "Scored") -> None:
    """Print which texts were scored, with documents, bytes and hash."""
    columns = ["text", "documents", "bytes", "sha256", "left out (empty)", "repaired", "source"]
    rows = [
        [
            t["name"],
            f"{t['documents']:,}",
            f"{t['bytes']:,}",
            t["sha256"][:12],
            str(t["empty_left_out"]),
            str(t["repaired"]),
            t["source"],
        ]
        for t in texts
    ]
    add_table(console, title, columns, rows)


LOST = "†"
"""Mark after a figure of a text that the tokenizer does not preserve."""


def marked(value: str, report: dict[str, Any]) -> str:
    """Return a figure of a text, followed by `LOST` if the tokenizer does not preserve the text."""
    return f"{value}{LOST}" if report.get("loses_text") else value


def lost_notes(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return one line for each model or tokenizer that does not preserve a text."""
    notes = [(name, report.get("lost_text")) for name, report in zip(names, reports, strict=True)]
    return [f"{LOST} {name} {note}." for name, note in notes if note]


def with_interval(value: str, bounds: Sequence[float] | None, digits: int = 3) -> str:
    """Return ``value [low, high]``, or the value alone without an interval."""
    return value if bounds is None else f"{value} [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"
