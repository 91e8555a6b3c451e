"""Options of `ensemble`: every name, default and meaning. This module imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mergekit_tokenadapt.options import Flag, Options, Seed


class EnsembleOptions(Options):
    """Options of averaging probabilities."""

    weights: Annotated[tuple[PositiveFloat, ...], Flag("weight", default="equal")] = Field(
        default=(), description="weight of a model; give one for each model, in their order"
    )
    mean: Literal["arithmetic", "geometric"] = Field(
        default="arithmetic", description="kind of mean of the models' probabilities"
    )
    target: NonNegativeInt = Field(
        default=0, description="lockstep: number of the model whose vocabulary is used, counted from 0"
    )


class ByteOptions(Options):
    """Options of averaging byte by byte."""

    max_bytes: PositiveInt = Field(default=200, description="number of bytes to generate or to score")
    temperature: NonNegativeFloat = Field(default=0.0, description="temperature; 0 takes the most likely byte")
    seed: Seed = Field(default=0, description="seed of the sampling with --temperature")
    tolerance: NonNegativeFloat = Field(
        default=0.01,
        description="byte by byte: probability of unlikely tokens that may be approximated; 0 is exact and slow",
    )
