"""What the readers of word vectors have in common, whatever the format of the file is.

Letters: B words of a batch, A dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError

BATCH = 4096
"""Words that are in memory at a time."""
MAX_DIMENSIONS = 1 << 16
"""More dimensions than this mean that the file is something else."""


class WordBatch(NamedTuple):
    """Some words of a file, in its order."""

    words: list[str | None]
    """None for a word that is not valid UTF-8: word2vec and fastText may cut a long word inside a character."""
    vectors_BA: np.ndarray
    """float32, all finite."""
    frequencies: np.ndarray
    """float64 [B], above 0: how often the words occur, or numbers in that ratio (see `by_zipf`)."""


class WordVectors(ABC):
    """A file of word vectors. It is never in memory as a whole.

    Args:
        path: the file.
    """

    dimensions: int
    """A: numbers in a vector. The readers of the formats set it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def batches(self, most: int | None = None) -> Iterator[WordBatch]:
        """Yield the words and their vectors, most frequent first.

        Args:
            most: words to read, at most; None: all.

        Raises:
            TokenAdaptError: the file is malformed. The message gives the place in it.
        """

    def of_words(self, wanted: Collection[str], most: int | None = None) -> dict[str, np.ndarray]:
        """Return the vectors of those of the wanted words that the file has, float32 [A] each.

        Args:
            wanted: the words.
            most: words to read, at most; None: all.

        Raises:
            TokenAdaptError: the file is malformed.
        """
        wanted = frozenset(wanted)
        found: dict[str, np.ndarray] = {}
        for batch in self.batches(most):
            for word, vector in zip(batch.words, batch.vectors_BA, strict=True):
                if word is not None and word in wanted:
                    found.setdefault(word, vector)
        return found

    def wrong(self, what: str, where: str = "") -> TokenAdaptError:
        """Return the error that the file cannot be used.

        Args:
            what: the reason, and what to do.
            where: the place in the file; empty: none.
        """
        place = f", {where}" if where else ""
        return TokenAdaptError(f"word vectors: {str(self.path)!r}{place}: {what}")

    def check_dimensions(self) -> None:
        """Refuse a number of dimensions that no file of word vectors has.

        Raises:
            TokenAdaptError: the number is not between 1 and `MAX_DIMENSIONS`.
        """
        if not 1 <= self.dimensions <= MAX_DIMENSIONS:
            raise self.wrong(f"{self.dimensions:,} dimensions are impossible; is it another kind of file?")

    def check_finite(self, vectors_BA: np.ndarray, places: Sequence[str]) -> None:
        """Refuse vectors that hold NaN or infinite numbers.

        Args:
            vectors_BA: the vectors.
            places: where each of the B vectors is in the file.

        Raises:
            TokenAdaptError: there is such a vector.
        """
        is_finite = np.isfinite(vectors_BA).all(axis=1)
        if not is_finite.all():
            raise self.wrong("a number is infinite or NaN; is the file damaged?", places[int(np.argmin(is_finite))])


def by_zipf(first: int, number: int) -> np.ndarray:
    """Return relative frequencies for a file that has no counts, float64 [number].

    Words are sorted by frequency. By Zipf's law, the frequency of a word is in proportion to 1 / its place.

    Args:
        first: place of the first of these words, from 0.
        number: number of words.
    """
    frequencies: np.ndarray = 1 / np.arange(first + 1, first + number + 1, dtype=np.float64)
    return frequencies


def decoded(word: bytes) -> str | None:
    """Return a word as text; None if it is not valid UTF-8."""
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        return None
