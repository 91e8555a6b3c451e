"""Terminal report of the command `draft`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mergekit_tokenadapt.evaluation.report.tables import print_texts
from mergekit_tokenadapt.terminal.tables import add_table, percent, say


def print_draft(console: Console, result: dict[str, Any]) -> None:
    """Print greedy and sampled acceptance."""
    s, modes = result["settings"], result["modes"]
    print_texts(console, result["texts"])
    add_table(
        console,
        f"{result['draft']} as a draft for {result['target']}",
        ["mode", "tokens accepted", "accepted per round", "tokens per run of the target", "rounds"],
        [
            [
                mode,
                percent(m["acceptance"]),
                f"{m['accepted_per_round']:.2f} of {s['proposed']}",
                f"{m['tokens_per_round']:.2f}",
                str(m["rounds"]),
            ]
            for mode, m in modes.items()
        ],
    )
    add_table(
        console,
        "Rounds by tokens accepted",
        ["mode", *map(str, range(s["proposed"] + 1))],
        [[mode, *map(str, m["rounds_by_accepted"])] for mode, m in modes.items()],
    )
    say(
        console,
        f"{s['prompts']} prompts of {s['prompt_tokens']} tokens, {s['new_tokens']} new tokens each; "
        f"temperature {s['temperature']:g}, seed {s['seed']}; {s['device']}, {s['dtype']}.",
    )
