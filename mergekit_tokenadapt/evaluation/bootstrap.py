"""Paired bootstrap over documents: intervals of ratios such as bits per byte, and of their differences.

The same resamples are used for all models (Koehn, "Statistical Significance Tests for Machine
Translation Evaluation", EMNLP 2004, section 3.2), so that what makes a document hard cancels out.

Letters: S resamples, N documents.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
"""Share of the resamples inside an interval."""


def resample_counts(num_documents: int, num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each document is drawn in each resample, int64 [S, N]; rows sum to N."""
    return generator.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=num_resamples)


def interval(values_S: np.ndarray) -> list[float]:
    """The middle `LEVEL` of the resampled values: [low, high]."""
    tail = (1 - LEVEL) / 2
    return [float(v) for v in np.quantile(values_S, [tail, 1 - tail])]
