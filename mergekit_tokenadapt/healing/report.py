"""What healing did, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_healed(console: Console, record: Mapping[str, Any]) -> None:
    """Bits per byte of every text before and after.

    Args:
        console: where to.
        record: what the manifest says under ``healing``.
    """
    table = Table("text", "base", "before", "after", title="Bits per byte (lower is better)", title_justify="left")
    for kind, what in (("held_out", "held out"), ("probes", "built-in")):
        figures = record[kind]
        for name, before in figures["before"].items():
            base = figures.get("base", {}).get(name)
            cells = ["" if value is None else f"{value:.3f}" for value in (base, before, figures["after"][name])]
            table.add_row(f"{name} ({what})", *cells)
    console.print(table)
    steps, each = record["steps"], record["options"]["passages_per_step"]
    taken = f"{steps} {'step' if steps == 1 else 'steps'} of {each} passages each"
    passes = f"{taken}, from {record['passages']} passages with {record['tokens']:,} tokens"
    ended = f", ended by {record['ended_by']}" if record["ended_by"] else ""
    console.print(f"{passes}{ended}; {record['trained_rows']:,} rows trained.", highlight=False)
    if record["worse"]:
        console.print(f"Worse than before: {', '.join(record['worse'])}.", highlight=False)
    if not record["is_better"]:
        console.print("Training did not help: the weights are as they were.", highlight=False)
