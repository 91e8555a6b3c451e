"""Kinds of values that options take: what is wrong with one is said before anything is read."""

from __future__ import annotations

import math
from typing import Any

import click

DTYPES = ("float32", "bfloat16", "float16")
"""dtypes that models are run in."""
OUTPUT_DTYPE = click.Choice([*DTYPES, "float64"])
"""dtypes that weights are written in."""
SEED = click.IntRange(min=0, max=2**63 - 1)
"""What numpy and torch both take."""


class FiniteRange(click.FloatRange):
    """A range of numbers that infinity and NaN are not in."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number to reckon with", param, ctx)
        return number


class Device(click.ParamType):  # type: ignore[type-arg]
    """A device of torch that is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The same name; torch is asked for a number on that device."""
        from mergekit_tokenadapt.models.loading import choose_device

        choose_device(value)
        return value
