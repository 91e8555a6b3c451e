"""What several reports print alike: the texts that were scored, and figures of texts that a tokenizer loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mergekit_tokenadapt.terminal.tables import add_table


def print_texts(console: Console, texts: Sequence[dict[str, Any]], title: str = "Scored") -> None:
    """Exactly what was scored: documents, bytes, hash."""
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
"""Behind a figure of a text that the tokenizer does not keep."""


def marked(value: str, report: dict[str, Any]) -> str:
    """A figure of a text, with `LOST` where the tokenizer loses some of it."""
    return f"{value}{LOST}" if report.get("loses_text") else value


def lost_notes(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each model or tokenizer that loses text."""
    notes = [(name, report.get("lost_text")) for name, report in zip(names, reports, strict=True)]
    return [f"{LOST} {name} {note}." for name, note in notes if note]


def with_interval(value: str, bounds: Sequence[float] | None, digits: int = 3) -> str:
    """``value [low, high]``, or the value alone where there is no interval."""
    return value if bounds is None else f"{value} [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"
