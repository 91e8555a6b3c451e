"""Texts to score in small windows, and documents with given losses."""

from __future__ import annotations

import numpy as np

from mergekit_tokenadapt.evaluation.compare import CompareOptions
from mergekit_tokenadapt.models.documents import ScoredDocument
from mergekit_tokenadapt.texts import TextSet

DOCUMENTS = (
    "the river runs past the old mill",
    "sie zählt die Steine: eins, zwei, drei. 🙂",
    "bread and water " * 40,
    "a",
)
TEXT = TextSet.of("mixed", DOCUMENTS, "test")
SHORT = CompareOptions(window=32, stride=16, resamples=100)


def document(losses: list[float], ends: list[int], ids: list[int] | None = None) -> ScoredDocument:
    """A document with these losses; each token ends at the given byte."""
    return ScoredDocument("x" * ends[-1], np.array(ids or range(len(losses))), np.array(losses), np.array(ends))
