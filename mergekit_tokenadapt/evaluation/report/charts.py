"""The plots of `compare`: functions from plain numbers to an ``<svg>`` element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergekit_tokenadapt.evaluation.report.svg import FONT, ROW, WIDTH, Drawing, Scale

PALETTE = ("#5f6b7a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which people with colour blindness can tell apart. The base is grey."""
CLASS_COLOURS = {"new": "#d55e00", "copied": "#0072b2", "following": "#00805f"}
"""Colours of the classes of tokens, see `excess.CLASSES`."""
ROW_COLOURS = {"old": "#0072b2", "new": "#d55e00"}
"""Colours of old and new rows."""
LEFT = 78
"""Width of the names of rows, in user units."""
AXIS = 2 * FONT + 14
"""Height of an axis below a plot, in user units."""
PLOT = 230
"""Height of plots without rows, in user units."""


def colour(index: int) -> str:
    """Return the colour of the model at this position."""
    return PALETTE[index % len(PALETTE)]


def dot_plot(
    label: str,
    title: str,
    rows: Sequence[str],
    values: Sequence[Sequence[float]],
    intervals: Sequence[Sequence[Sequence[float] | None]],
) -> str:
    """Draw one dot for each model and row, with a line for its confidence interval.

    Args:
        label: description of the plot in words.
        title: title of the axis.
        rows: names of the rows.
        values: [models][rows].
        intervals: [models][rows], (low, high) or None.
    """
    highest = max(bounds[1] for model in intervals for bounds in model if bounds) if any(map(any, intervals)) else 0.0
    scale = Scale(0, max(highest, *(v for model in values for v in model)) * 1.04, LEFT, WIDTH - 8)
    drawing = Drawing(len(rows) * ROW + AXIS, label)
    drawing.horizontal_axis(scale, 0, len(rows) * ROW, title)
    for n, name in enumerate(rows):
        middle = n * ROW + ROW / 2
        drawing.text(LEFT - 6, middle + 4, name, "end")
        for m, model in enumerate(values):
            y = middle + (m - (len(values) - 1) / 2) * min(4.0, 12 / len(values))
            bounds = intervals[m][n]
            if bounds:
                drawing.line(scale(bounds[0]), y, scale(bounds[1]), y, f"stroke:{colour(m)};stroke-width:1.5")
            drawing.dot(scale(model[n]), y, 2.8, f"fill:{colour(m)}", f"{name}: {model[n]:.3f}")
    return drawing.render()


def bars(label: str, title: str, rows: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """Draw horizontal bars, grouped by row. `values` are [models][rows]."""
    thickness = max(3.0, 12 / len(values))
    height = len(values) * thickness + 6
    scale = Scale(0, max(v for model in values for v in model) * 1.04, LEFT, WIDTH - 8)
    drawing = Drawing(len(rows) * height + AXIS, label)
    drawing.horizontal_axis(scale, 0, len(rows) * height, title)
    for n, name in enumerate(rows):
        drawing.text(LEFT - 6, n * height + height / 2 + 4, name, "end")
        for m, model in enumerate(values):
            y = n * height + 3 + m * thickness
            width = scale(model[n]) - LEFT
            drawing.rectangle(LEFT, y, width, thickness - 0.5, f"fill:{colour(m)}", f"{name}: {model[n]:.3f}")
    return drawing.render()


def stacked_shares(label: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Draw one bar of 100 % for each row, made of the shares of the classes of tokens."""
    height = 26
    scale = Scale(0, 100, LEFT, WIDTH - 14)
    drawing = Drawing(len(rows) * height + AXIS, label)
    drawing.horizontal_axis(scale, 0, len(rows) * height, "per cent")
    for n, (name, shares) in enumerate(rows):
        drawing.text(LEFT - 6, n * height + height / 2 + 4, name, "end")
        start = 0.0
        for what, share in shares.items():
            x, width = scale(100 * start), scale(100 * share) - LEFT
            style = f"fill:{CLASS_COLOURS[what]}"
            drawing.rectangle(x, n * height + 4, width, height - 8, style, f"{what}: {100 * share:.1f} %")
            if width > 34:
                drawing.text(x + width / 2, n * height + height / 2 + 4, f"{100 * share:.0f} %", "middle", "inside")
            start += share
    return drawing.render()


def histogram(label: str, title: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> str:
    """Draw outlines of histograms over the same bins. Each shows shares of its own total."""
    shares = {name: [c / max(1, sum(values)) for c in values] for name, values in counts.items()}
    across = Scale(edges[0], edges[-1], 14, WIDTH - 8)
    up = Scale(0, max(v for values in shares.values() for v in values) * 1.05, PLOT, 4)
    drawing = Drawing(PLOT + AXIS, label)
    drawing.horizontal_axis(across, 4, PLOT, title)
    for name, values in shares.items():
        points = [(across(edges[0]), up(0))]
        for n, value in enumerate(values):
            points += [(across(edges[n]), up(value)), (across(edges[n + 1]), up(value))]
        points.append((across(edges[-1]), up(0)))
        shape = f"fill:{ROW_COLOURS[name]};fill-opacity:.18;stroke:{ROW_COLOURS[name]};stroke-width:1.5"
        drawing.path(points, shape)
    return drawing.render()


def scatter(label: str, points: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Draw points of several kinds on axes with the same unit. Later kinds are drawn over earlier ones."""
    xs = [x for kind in points.values() for x, _ in kind]
    ys = [y for kind in points.values() for _, y in kind]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 * 1.05 or 1.0
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    side = WIDTH - 30
    across = Scale(middle_x - half, middle_x + half, 15, 15 + side)
    # The plot is as high as the points need. One unit has the same length on both axes.
    half_y = (max(ys) - min(ys)) / 2 + half * 0.05
    height = side * half_y / half
    up = Scale(middle_y - half_y, middle_y + half_y, height, 0)
    drawing = Drawing(height + AXIS, label)
    drawing.horizontal_axis(across, 0, height, "first principal component of the old rows")
    drawing.text(0, FONT, "second", "start")
    for name, kind in points.items():
        for x, y in kind:
            drawing.dot(across(x), up(y), 1.7, f"fill:{ROW_COLOURS[name]};fill-opacity:.45")
    return drawing.render()
