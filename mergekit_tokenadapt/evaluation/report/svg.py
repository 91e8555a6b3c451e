"""Plots as inline SVG without dependencies: a few shapes, a linear scale, and round tick values.

All plots have the same width in user units. The page scales them to the width of their column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 400
"""Width of a plot, in user units."""
FONT = 12
"""Font size, in user units."""
ROW = 18
"""Height of one row of a plot with rows, in user units."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value in user units."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` round values in [low, high]: multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 2.3)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    span = high - low
    if span <= 0:
        return [low]
    exponent = math.floor(math.log10(span / most))
    steps = [factor * 10.0**e for e in (exponent, exponent + 1) for factor in (1, 2, 5)]
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(n * step, 10) for n in range(first, last + 1)]


def number(value: float) -> str:
    """Write a number as short as possible.

    >>> number(2.0), number(0.25), number(1200)
    ('2', '0.25', '1200')
    """
    return f"{value:.6g}"


@dataclass
class Drawing:
    """An SVG picture under construction. Every shape is drawn over the earlier ones."""

    height: float
    label: str
    """Description of the picture for people who cannot see it."""
    width: float = WIDTH
    _shapes: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Add a line. `style` is a class of the page, or ``stroke:...``."""
        self._shapes.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {_style(style)}/>')

    def rectangle(self, x: float, y: float, width: float, height: float, style: str, hint: str = "") -> None:
        """Add a filled rectangle. `hint` appears while the pointer rests on it."""
        shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{max(0, height):.1f}" {_style(style)}'
        self._shapes.append(f"<rect {shape}>{_hint(hint)}</rect>")

    def dot(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """Add a filled circle."""
        self._shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {_style(style)}>{_hint(hint)}</circle>')

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Add an open polyline through the points."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{steps}" {_style(style)}/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start", style: str = "label") -> None:
        """Add text with its baseline at y. `anchor` is start, middle or end."""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_style(style)}>{escape(text)}</text>'
        )

    def horizontal_axis(self, scale: Scale, top: float, bottom: float, title: str) -> None:
        """Add grid lines, their values below them, and the title below the values."""
        for value in ticks(scale.low, scale.high):
            x = scale(value)
            self.line(x, top, x, bottom, "grid")
            self.text(x, bottom + FONT + 2, number(value), "middle")
        self.text((scale.start + scale.end) / 2, bottom + 2 * FONT + 6, title, "middle")

    def render(self) -> str:
        """Return the ``<svg>`` element."""
        size = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        return f'<svg {size} role="img" aria-label="{escape(self.label)}">{"".join(self._shapes)}</svg>'


def _style(style: str) -> str:
    return f'style="{escape(style)}"' if ":" in style else f'class="{style}"'


def _hint(hint: str) -> str:
    return f"<title>{escape(hint)}</title>" if hint else ""
