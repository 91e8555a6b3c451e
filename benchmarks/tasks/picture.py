"""docs/tasks.svg: the share of the base model's scores that is kept, against the minutes that a swap took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.common.curves import STYLE
from benchmarks.tasks.cases import ALL_ROWS, BASE, HEALED, TASKS, key_of
from benchmarks.tasks.page import share_kept
from mergekit_tokenadapt.evaluation.report.charts import colour
from mergekit_tokenadapt.evaluation.report.svg import FONT, Drawing, Scale, number, ticks

WIDE, HIGH, MARGIN, ROW = 640.0, 300.0, 44.0, 18.0
MINUTES = (0.1, 0.3, 1, 3, 10, 30, 100)
"""Marks of the axis, which is logarithmic."""


def most_measured(runs: Mapping[str, Any]) -> tuple[str, int]:
    """The pair, and the number of documents, with the most cells."""
    counts = Counter((key.split(" | ")[0], int(key.split(" | ")[3])) for key in runs)
    return max(counts, key=lambda group: (counts[group], group))


def tasks_of(runs: Mapping[str, Any], pair: str, documents: int) -> list[str]:
    """The tasks with gold answers that every row of this pair has.

    The accuracy of few documents says nothing, and the bits per byte of their answers say much.
    """
    gold = [task for task, about in TASKS.items() if about.metric == "bits_per_byte"]
    return [t for t in gold if all(key_of(pair, row, t, documents) in runs for row in _rows(runs, pair, documents))]


def points_of(runs: Mapping[str, Any], pair: str, documents: int) -> dict[str, tuple[float, float]]:
    """Row to minutes and the mean share over the tasks."""
    tasks = tasks_of(runs, pair, documents)
    found = {}
    for row in _rows(runs, pair, documents)[1:] if tasks else []:
        cells = [
            (task, runs[key_of(pair, row, task, documents)], runs[key_of(pair, BASE, task, documents)])
            for task in tasks
        ]
        shares = [share_kept(task, cell, base) for task, cell, base in cells]
        found[row] = (max(cell["swap_seconds"] for _, cell, _ in cells) / 60, sum(shares) / len(shares))
    return found


def _rows(runs: Mapping[str, Any], pair: str, documents: int) -> list[str]:
    """The base model, and all rows that have any task."""
    measured = [row for row in ALL_ROWS if any(key_of(pair, row, task, documents) in runs for task in TASKS)]
    return [BASE, *(row for row in measured if row != BASE)]


def picture(points: Mapping[str, tuple[float, float]], title: str) -> str:
    """A dot for each row, numbered, with the names below. Healed models have another colour."""
    across = Scale(math.log10(MINUTES[0]), math.log10(MINUTES[-1]), MARGIN, WIDE - 16)
    low = min(share for _, share in points.values())
    up = Scale(max(0.0, math.floor(low * 10 - 0.5) / 10), 1.0, HIGH, 24)
    drawing = Drawing(HIGH + 3 * FONT + ROW * len(points) + 8, title, WIDE)
    for minutes in MINUTES:
        x = across(math.log10(minutes))
        drawing.line(x, 24, x, HIGH, "grid")
        drawing.text(x, HIGH + FONT + 2, number(minutes), "middle")
    for share in ticks(up.low, up.high):
        drawing.line(MARGIN, up(share), WIDE - 16, up(share), "grid")
        drawing.text(MARGIN - 6, up(share) + 4, f"{share:.0%}", "end")
    drawing.text((across.start + across.end) / 2, HIGH + 2 * FONT + 6, "minutes for swap and healing", "middle")
    drawing.text(MARGIN, FONT + 2, title)
    for n, (row, (minutes, share)) in enumerate(points.items(), start=1):
        x, y = across(math.log10(max(minutes, MINUTES[0]))), up(share)
        style = f"fill:{colour(2 if row in HEALED else 1)}"
        drawing.dot(x, y, 4, style, f"{row}: {share:.0%}")
        drawing.text(x + 6, y - 4, str(n), "start", style)
        drawing.text(
            MARGIN, HIGH + 3 * FONT + ROW * n, f"{n}  {row}: {share:.0%}, {minutes:.1f} minutes", "start", style
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE:g}" '
    return drawing.render().replace("<svg ", head, 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"
