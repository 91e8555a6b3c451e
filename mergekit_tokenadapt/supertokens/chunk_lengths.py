"""Lengths of random chunks, for the algorithm `chunks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError

SHORTEST, LONGEST = 4, 23
"""Range of the default chunk lengths, in characters, as in the paper."""


def bell_shaped() -> dict[int, float]:
    """Return the default distribution of chunk lengths: 4 to 23 characters, with normal weights around the middle.

    The standard deviation is a quarter of the range. The probabilities add up to 1.
    """
    lengths = np.arange(SHORTEST, LONGEST + 1)
    middle, spread = (SHORTEST + LONGEST) / 2, (LONGEST - SHORTEST) / 4
    weights = np.exp(-(((lengths - middle) / spread) ** 2) / 2)
    return dict(zip(lengths.tolist(), (weights / weights.sum()).tolist(), strict=True))


@dataclass(frozen=True)
class ChunkLengths:
    """The distribution of chunk lengths."""

    distribution: Mapping[int, float] = field(default_factory=bell_shaped)
    """Chunk length in characters -> probability. The probabilities have to add up to 1."""

    def __post_init__(self) -> None:
        total = sum(self.distribution.values())
        wrong = [n for n in self.distribution if n < 1]
        negative = [p for p in self.distribution.values() if not 0 <= p <= 1]
        if wrong or negative or not self.distribution:
            raise TokenAdaptError("chunk lengths have to be whole numbers from 1, with probabilities from 0 to 1")
        if abs(total - 1) > 1e-6:
            raise TokenAdaptError(
                f"the probabilities of the chunk lengths add up to {total:.4f}; they have to add to 1"
            )

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """Draw random chunk lengths in characters, int64 [number]."""
        lengths = np.array(sorted(self.distribution), dtype=np.int64)
        weights = np.array([self.distribution[int(n)] for n in lengths])
        return generator.choice(lengths, size=number, p=weights / weights.sum())
