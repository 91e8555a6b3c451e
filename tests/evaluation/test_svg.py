"""Drawings: ticks, scales, and shapes placed by value."""

from __future__ import annotations

import re

import pytest

from mergekit_tokenadapt.evaluation.report import charts
from mergekit_tokenadapt.evaluation.report.svg import Drawing, Scale, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 2.3, [0, 0.5, 1, 1.5, 2]),
        (0, 6, [0, 2, 4, 6]),
        (0.12, 0.19, [0.12, 0.14, 0.16, 0.18]),
        (-3, 4, [-2, 0, 2, 4]),
        (0, 100, [0, 50, 100]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_scale_maps_ends_to_ends() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(0), scale(5), scale(10)] == [100, 150, 200]


def test_shapes_are_placed_by_value() -> None:
    picture = charts.bars("b", "t", ["one", "two"], [[1.0, 2.0]])
    widths = [float(w) for w in re.findall(r'<rect [^>]*? width="([\d.]+)"', picture)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.3)
    shares = charts.stacked_shares("s", [("tokens", {"new": 0.25, "copied": 0.75})])
    widths = [float(w) for w in re.findall(r'<rect [^>]*? width="([\d.]+)"', shares)]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.3)


def test_text_in_a_picture_is_escaped() -> None:
    drawing = Drawing(10, 'a "label" <x>')
    drawing.text(0, 0, "<script>")
    drawing.dot(0, 0, 1, "fill:red", "<b>")
    picture = drawing.render()
    assert "<script>" not in picture
    assert "<b>" not in picture
    assert 'aria-label="a &quot;label&quot; &lt;x&gt;"' in picture
