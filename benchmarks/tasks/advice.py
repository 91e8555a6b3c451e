"""Which method to take when: of the rows that a user could make, the one that keeps the largest share of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import models
from benchmarks.healing.cells import INTERPOLATE, RECIPES, STARTS
from benchmarks.tasks.cases import ALL_ROWS, BASE, HAVE_WEIGHTS, HEALED, NEEDS_DONOR, PAIRS, ROWS, TASKS, key_of
from benchmarks.tasks.shares import Runs, mean_shares, tasks_and_rows
from mergekit_tokenadapt.evaluation.bootstrap import interval


def _with_text(row: str) -> bool:
    return bool({"calibration_text", "text"} & ROWS[row].keys())


FLAGS = {"method", "auxiliary", "untie", "calibration_text", "calibration_bytes"}
"""Options of an `adapt` block with a flag of their own; `-O` sets the others."""
HEADING = """## Which method when

Of the methods that were measured, each line names the one that keeps the largest share of the base model's scores, as
the mean over the tasks that the table names, with a 95% interval. The last column names methods whose share is not
clearly smaller: the 95% interval of the difference, on the same documents, reaches zero.
"""
COLUMNS = "| you have | take | share kept | minutes | not clearly worse |\n|---|---|---|---|---|"
DONOR = "a donor: the target has weights"
SITUATIONS: dict[str, tuple[str, ...]] = {
    "no text and no training": tuple(row for row in ROWS if row not in NEEDS_DONOR and not _with_text(row)),
    "a few hundred kilobytes of text, and no training": tuple(row for row in ROWS if row not in NEEDS_DONOR),
    "15 minutes of one core for training": tuple(row for row, cell in HEALED.items() if cell[2] == "15 minutes"),
    "an hour of one core for training": tuple(
        row for row, cell in HEALED.items() if cell[2] in ("20 steps", "60 minutes")
    ),
    DONOR: tuple(NEEDS_DONOR),
}
"""What a user has, and the rows that this is enough for, beside those above."""


def advice(runs: Runs, groups: Sequence[tuple[str, int]]) -> list[str]:
    """The lines of the section: a table for each pair of models and number of documents."""
    lines = [HEADING]
    for pair, documents in groups:
        tasks, rows = tasks_and_rows(runs, pair, [row for row in ALL_ROWS if row != BASE], documents)
        if tasks:
            title = " with the vocabulary of ".join(models.title(name) for name in PAIRS[pair])
            lines += [f"{title}; {' and '.join(tasks)}, {documents} documents each:\n", COLUMNS]
            for have, fitting in SITUATIONS.items():
                if have != DONOR or PAIRS[pair][1] in HAVE_WEIGHTS:
                    lines.append(_line(runs, pair, have, [row for row in fitting if row in rows], tasks, documents))
            lines.append("")
    return lines


def _line(runs: Runs, pair: str, have: str, rows: Sequence[str], tasks: Sequence[str], documents: int) -> str:
    if not rows:
        return f"| {have} | not measured | | | |"
    shares = {row: mean_shares(runs, pair, row, tasks, documents) for row in rows}
    best = max(rows, key=lambda row: float(shares[row][0]))
    low, high = interval(shares[best][1:])
    alike = [row for row in rows if row != best and interval(shares[best][1:] - shares[row][1:])[0] <= 0]
    cells = [cell for task in TASKS if (cell := runs.get(key_of(pair, best, task, documents)))]
    minutes = max(cell["swap_seconds"] for cell in cells) / 60
    return (
        f"| {have} | {command(best)} | {shares[best][0]:.0%} ({low:.0%} to {high:.0%}) | {minutes:.1f} | "
        f"{'; '.join(alike) or f'none of {len(rows)}'} |"
    )


def command(row: str) -> str:
    """What a user types for a row, in short."""
    if row in HEALED:
        start, recipe, amount = HEALED[row]
        number, unit = amount.split()
        options = {unit: float(number), "interpolate": INTERPOLATE, **RECIPES[recipe]}
        values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in options.items()}
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
        return f"`{_transplant(STARTS[start])}`, then `heal {flags}`"
    if "tokensurgeon" in ROWS[row]:
        return f"`mergekit-tokensurgeon {' '.join(ROWS[row]['tokensurgeon'])}`"
    return f"`{_transplant(ROWS[row])}`"


def _transplant(block: Mapping[str, Any]) -> str:
    """The command for an `adapt` block, without what is the default."""
    words = ["transplant"]
    if block["method"] != "calibrated":
        words.append(f"--method {block['method']}")
    if block.get("auxiliary", "ngram") != "ngram":
        words.append(f"--auxiliary {models.title(block['auxiliary'])}")
    if block.get("untie"):
        words.append("--untie")
    if "calibration_text" in block:
        words.append(f"--calibration-text PATH --calibration-bytes {block['calibration_bytes']}")
    for name in sorted(block.keys() - FLAGS):
        value = block[name]
        words.append(f"-O {name}={'PATH' if value == 'mixed' else str(value).lower()}")
    return " ".join(words)
