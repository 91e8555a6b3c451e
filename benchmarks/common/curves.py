"""Curves for the pages in docs/: points joined by lines, as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergekit_tokenadapt.evaluation.report.charts import PALETTE, colour
from mergekit_tokenadapt.evaluation.report.svg import FONT, ROW, Drawing, Scale, number, ticks

WIDE, HIGH, MARGIN = 460.0, 260.0, 56.0
STYLE = "text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd;stroke-width:1}.label{fill:#333}svg{background:#fff}"


def curves(
    across: str, up: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, names_below: bool = False
) -> str:
    """Draw points joined by lines, on linear axes from zero, as a complete SVG file.

    Args:
        across: what the horizontal axis shows.
        up: what the vertical axis shows.
        lines: name to points.
        names_below: put the names below the picture, instead of at the ends of the lines.
    """
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    right = Scale(0, max(xs) * 1.03, MARGIN, WIDE - 12)
    upward = Scale(0, max(ys) * 1.08, HIGH, 14)
    below = HIGH + 2 * FONT + 14
    drawing = Drawing(below + (ROW * len(lines) if names_below else 0), f"{up} against {across}", WIDE)
    drawing.horizontal_axis(right, 14, HIGH, across)
    for value in ticks(upward.low, upward.high):
        drawing.line(MARGIN, upward(value), WIDE - 12, upward(value), "grid")
        drawing.text(MARGIN - 6, upward(value) + 4, number(value), "end")
    drawing.text(MARGIN + 4, FONT - 2, up)
    for n, (name, points) in enumerate(lines.items(), start=1):
        placed = [(right(x), upward(y)) for x, y in points]
        is_again = n > len(PALETTE)  # its colour is that of an earlier line
        dashes = ";stroke-dasharray:6 4" if is_again else ""
        drawing.path(placed, f"fill:none;stroke:{colour(n)};stroke-width:2{dashes}")
        for (x, y), (tokens, value) in zip(placed, points, strict=True):
            drawing.dot(x, y, 3, f"fill:{colour(n)}", f"{name}, {number(tokens)}: {number(round(value, 2))}")
        x, y, anchor = (
            (MARGIN, below + ROW * n - 8, "start") if names_below else (placed[-1][0] - 4, placed[-1][1] - 8, "end")
        )
        drawing.text(x, y, f"{name} (dashed)" if is_again else name, anchor, f"fill:{colour(n)}")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE:g}" '
    return drawing.render().replace("<svg ", head, 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"
