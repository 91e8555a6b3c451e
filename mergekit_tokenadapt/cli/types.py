"""Kinds of values that options take: what is wrong with one is said before anything is read."""

from __future__ import annotations

import math
from typing import Any

import click

OUTPUT_DTYPE = click.Choice(["float32", "bfloat16", "float16", "float64"])
"""dtypes that weights are written in."""


class FiniteRange(click.FloatRange):
    """A range of numbers that infinity and NaN are not in."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number to reckon with", param, ctx)
        return number
