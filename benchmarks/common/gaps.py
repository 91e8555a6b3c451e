"""Bits per byte of models beside those of the base model, from the bits of each document, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 1000
Scores = list[tuple[float, int]]
"""(bits, bytes) of each document."""


def counts_of(number: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Return how often each of N documents counts: once, as measured; then in S resamples. int64 [1 + S, N]."""
    from mergekit_tokenadapt.evaluation.bootstrap import resample_counts

    drawn = resample_counts(number, resamples, generator)
    return np.vstack([np.ones(number, dtype=drawn.dtype), drawn])


def bits_per_byte(scores: Scores, counts: np.ndarray | None = None) -> Any:
    """Return bits per byte of N documents; or of S resamples, where `counts` [S, N] says how often each is drawn."""
    bits, sizes = np.array(scores).T
    counts = np.ones(len(bits)) if counts is None else counts
    return (counts @ bits) / (counts @ sizes)


def gap_closed(base: Scores, mean: Scores, one: Scores, counts: np.ndarray | None = None) -> Any:
    """Return (mean - method) / (mean - base), for the documents or for resamples of them."""
    floor, start, value = (bits_per_byte(scores, counts) for scores in (base, mean, one))
    return (start - value) / (start - floor)


def gap_interval(base: Scores, mean: Scores, one: Scores) -> list[float]:
    """Return the 95% interval of the gap closed, from a paired bootstrap over documents."""
    from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts

    return interval(gap_closed(base, mean, one, resample_counts(len(base), RESAMPLES, np.random.default_rng(0))))


def change(base: Scores, one: Scores) -> tuple[float, float, float]:
    """Bits per byte of a model less those of the base model, and the 95% interval of this difference."""
    from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts

    counts = resample_counts(len(base), RESAMPLES, np.random.default_rng(0))
    low, high = interval(bits_per_byte(one, counts) - bits_per_byte(base, counts))
    return float(bits_per_byte(one) - bits_per_byte(base)), low, high
