"""Paired bootstrap over documents: confidence intervals of ratios such as bits per byte, and of their differences.

All models are evaluated on the same resamples (Koehn, "Statistical Significance Tests for Machine Translation
Evaluation", EMNLP 2004, section 3.2). The difficulty of a document is the same for all models, so it cancels in their
difference.

Letters: S resamples, N documents.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
"""Confidence level: the share of the resampled values within an interval."""


def resample_counts(num_documents: int, num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw how often each resample contains each document, int64 [S, N]. Each row sums to N."""
    return generator.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=num_resamples)


def interval(values_S: np.ndarray) -> list[float]:
    """Return the middle `LEVEL` of the resampled values as [low, high]."""
    tail = (1 - LEVEL) / 2
    return [float(v) for v in np.quantile(values_S, [tail, 1 - tail])]
