"""docs/tasks.svg: the share of the base model's scores that is kept, against the minutes that a swap took."""

from __future__ import annotations

import math
from collections.abc import Mapping

from benchmarks.common import models
from benchmarks.common.curves import STYLE
from benchmarks.healing.cells import RECIPES
from benchmarks.tasks.cases import ALL_ROWS, BASE, HEALED, OURS, PAIRS, ROWS, TASKS, key_of
from benchmarks.tasks.shares import Runs, by_cells, mean_shares, tasks_and_rows
from mergekit_tokenadapt.evaluation.report.charts import colour
from mergekit_tokenadapt.evaluation.report.svg import FONT, Drawing, Scale, number, ticks

WIDE, TOP, HIGH, MARGIN, ROW = 640.0, 40.0, 320.0, 44.0, 18.0
NEAR = 12.0
"""Distance of two dots at which their numbers would overlap."""
MINUTES = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Marks of the axis, which is logarithmic."""
KINDS = {"ours, without training": 1, "ours, healed": 2, "others": 3}
"""What a dot stands for, and its colour."""
Point = tuple[float, float]
"""Minutes, and the mean share over the tasks."""


def drawn(runs: Runs) -> str:
    """The picture of the pair with the most cells, as a complete SVG file."""
    pair, documents = by_cells(runs)[0]
    tasks, rows = tasks_and_rows(runs, pair, [row for row in ALL_ROWS if row != BASE], documents)
    base, target = (models.title(name) for name in PAIRS[pair])
    lines = (f"{base} with the vocabulary of {target}", f"share of its score that is kept, mean of {', '.join(tasks)}")
    return picture({row: _point(runs, pair, row, tasks, documents) for row in rows}, *lines)


def _point(runs: Runs, pair: str, row: str, tasks: list[str], documents: int) -> Point:
    cells = [cell for task in TASKS if (cell := runs.get(key_of(pair, row, task, documents)))]
    minutes = max(cell["swap_seconds"] for cell in cells) / 60
    return minutes, float(mean_shares(runs, pair, row, tasks, documents)[0])


def _kind(row: str) -> str:
    if row in HEALED:
        return "others" if "objective" in RECIPES[HEALED[row][1]] else "ours, healed"
    return "ours, without training" if ROWS[row].get("method") in OURS else "others"


def picture(points: Mapping[str, Point], title: str, subtitle: str) -> str:
    """A numbered dot for each row, with the names below."""
    across = Scale(math.log10(MINUTES[0]), math.log10(MINUTES[-1]), MARGIN, WIDE - 16)
    low = min((share for _, share in points.values()), default=0.0)
    up = Scale(max(0.0, math.floor(low * 10 - 0.5) / 10), 1.0, HIGH, TOP)
    drawing = Drawing(HIGH + 3 * FONT + ROW * (len(points) + 1) + 8, f"{title}: {subtitle}", WIDE)
    for minutes in MINUTES:
        x = across(math.log10(minutes))
        drawing.line(x, TOP, x, HIGH, "grid")
        drawing.text(x, HIGH + FONT + 2, number(minutes), "middle")
    for share in ticks(up.low, up.high):
        drawing.line(MARGIN, up(share), WIDE - 16, up(share), "grid")
        drawing.text(MARGIN - 6, up(share) + 4, f"{share:.0%}", "end")
    drawing.text((across.start + across.end) / 2, HIGH + 2 * FONT + 6, "minutes for swap and healing", "middle")
    drawing.text(4, FONT + 2, title)
    drawing.text(4, 2 * FONT + 5, subtitle)
    for n, (kind, index) in enumerate(KINDS.items()):
        x, y = MARGIN + n * 190, HIGH + 3 * FONT + ROW
        drawing.dot(x + 4, y - 4, 4, f"fill:{colour(index)}")
        drawing.text(x + 14, y, kind, "start", f"fill:{colour(index)}")
    numbered: list[tuple[float, float]] = []
    for n, (row, (minutes, share)) in enumerate(points.items(), start=1):
        x, y = across(math.log10(max(minutes, MINUTES[0]))), up(share)
        style = f"fill:{colour(KINDS[_kind(row)])}"
        drawing.dot(x, y, 4, style, f"{row}: {share:.0%}")
        is_free = not any(abs(x - other) < NEAR and abs(y - above) < NEAR for other, above in numbered)
        drawing.text(x + 6 if is_free else x - 6, y - 4, str(n), "start" if is_free else "end", style)
        numbered.append((x, y))
        name = f"{n}  {row}: {share:.0%}, {minutes:.1f} minutes"
        drawing.text(MARGIN, HIGH + 3 * FONT + ROW * (n + 1), name, "start", style)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE:g}" '
    return drawing.render().replace("<svg ", head, 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"
