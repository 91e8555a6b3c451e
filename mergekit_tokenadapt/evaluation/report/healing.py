"""Terminal report of healing."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mergekit_tokenadapt.evaluation.report.tables import print_texts
from mergekit_tokenadapt.terminal.tables import add_table, say


def print_healing(console: Console, result: dict[str, Any]) -> None:
    """Print the bits per byte of the held-out passages, with one row for each model."""
    s = result["settings"]
    print_texts(console, result["texts"])
    steps = [point["step"] for point in result["models"][0]["curve"]]
    add_table(
        console,
        "Bits per byte of held-out passages after so many steps",
        ["model", *map(str, steps)],
        [[m["name"], *(f"{point['bits_per_byte']:.3f}" for point in m["curve"])] for m in result["models"]],
    )
    what = {"rows": "only the input and output rows trained", "all": "all weights trained"}[s["train"]]
    say(
        console,
        f"{what}; a step is {s['batch_size']} passages of about {s['passage_bytes']} bytes; AdamW, learning rate "
        f"{s['learning_rate']:g}, seed {s['seed']}; {result['held_out_bytes']:,} bytes held out.",
    )
