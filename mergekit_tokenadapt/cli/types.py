"""Types of option values. They find wrong values before anything is read."""

from __future__ import annotations

import math
from typing import Any

import click

OUTPUT_DTYPE = click.Choice(["float32", "bfloat16", "float16", "float64"])
"""Dtypes that weights can be written in."""


class FiniteRange(click.FloatRange):
    """A range of numbers without infinity and NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number
