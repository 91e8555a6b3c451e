"""Models of fastText (``.bin``), which have rows for character n-grams beside those of words.

The file is mapped into memory, and only the rows that are asked for are read. The format is that of fastText's own
code: magic number, version, arguments, dictionary, and the input matrix, which has a row for each word and then one for
each bucket of n-grams. Letters: T texts, A dimensions.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mergekit_tokenadapt.auxiliary.word_vectors.reading import BATCH, WordBatch, WordVectors, decoded
from mergekit_tokenadapt.errors import TokenAdaptError

MAGIC = struct.pack("<i", 793712314)
"""The first bytes of a model."""
VERSIONS = (11, 12)
"""Versions of the format that can be read."""
VERSION = struct.Struct("<i")
ARGUMENTS = struct.Struct("<12id")
"""dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t"""
DICTIONARY = struct.Struct("<3i2q")
"""Numbers of entries, words, labels and tokens of the training text, and of the n-grams that are left (-1: all)."""
ENTRY = struct.Struct("<qb")
"""What follows the zero byte after a word: how often it occurs, and whether it is a label."""
MATRIX = struct.Struct("<?2q")
"""Whether the matrix is quantized, and the numbers of its rows and columns."""
SUPERVISED = 3
"""Value of the argument `model` for classifiers."""
END_OF_LINE = b"</s>"
"""The one word that has no n-grams."""

INCOMPLETE = "the file is damaged or incomplete: fetch it again"


class Entry(NamedTuple):
    """One entry of the dictionary."""

    word: bytes
    frequency: int
    end: int
    """Place in the file where the next entry begins."""


class FastTextModel(WordVectors):
    """A fastText model. A vector is the mean of the word's own row, if it has one, and of the rows of its n-grams.

    Raises:
        TokenAdaptError: the file is incomplete, quantized, or of another version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as stream:
            self._content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            (version,) = VERSION.unpack_from(self._content, len(MAGIC))
            place = len(MAGIC) + VERSION.size
            arguments = ARGUMENTS.unpack_from(self._content, place)
            place += ARGUMENTS.size
            num_entries, self.num_words, _, _, num_kept = DICTIONARY.unpack_from(self._content, place)
            self._first_entry = place + DICTIONARY.size
            self.dimensions, self._buckets, self._shortest, self._longest = (arguments[n] for n in (0, 8, 9, 10))
            if version not in VERSIONS:
                raise self.wrong(f"version {version} of fastText's format is unknown")
            if version == VERSIONS[0] and arguments[7] == SUPERVISED:  # as fastText reads these
                self._longest = 0
            place = self._first_entry
            for entry in islice(self._entries(), num_entries):
                place = entry.end
            is_quantized, num_rows, num_columns = MATRIX.unpack_from(self._content, place)
            if is_quantized or num_kept >= 0:
                raise self.wrong("quantized models (.ftz) cannot be read: take the .bin or .vec file")
            if num_columns != self.dimensions or num_rows < self.num_words:
                raise struct.error
            self._matrix = np.frombuffer(
                self._content, dtype="<f4", count=num_rows * num_columns, offset=place + MATRIX.size
            ).reshape(num_rows, num_columns)
        except TokenAdaptError:
            raise
        except (struct.error, ValueError) as error:  # `frombuffer` raises ValueError
            raise self.wrong(INCOMPLETE) from error

    @property
    def has_ngrams(self) -> bool:
        """Whether the model was trained with n-grams, so that it has vectors of texts that are not among its words."""
        return bool(self._longest > 0 and self._buckets > 0)

    def batches(self, most: int | None = None) -> Iterator[WordBatch]:
        """See `WordVectors`. The frequencies are those of the training text.

        Raises:
            TokenAdaptError: a number is not finite.
        """
        entries = islice(self._entries(), self.num_words if most is None else min(most, self.num_words))
        first = 0
        while some := list(islice(entries, BATCH)):
            vectors_BA = np.stack([self._vector(e.word, first + n) for n, e in enumerate(some)])
            self.check_finite(vectors_BA, [f"word {first + n + 1:,}" for n in range(len(some))])
            frequencies = np.array([max(1, e.frequency) for e in some], dtype=np.float64)
            yield WordBatch([decoded(e.word) for e in some], vectors_BA, frequencies)
            first += len(some)

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of any texts, float32 [T, A]: zeros for a text that has no n-grams and is no word.

        Raises:
            TokenAdaptError: a number is not finite.
        """
        contents = [text.encode("utf-8", "surrogatepass") for text in texts]
        place = self._places(contents, self.num_words)
        vectors_TA = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for n, content in enumerate(contents):
            vectors_TA[n] = self._vector(content, place.get(content))
        self.check_finite(vectors_TA, [f"the vector of {text!r}" for text in texts])
        return vectors_TA

    def of_words(self, wanted: Collection[str], most: int | None = None) -> dict[str, np.ndarray]:
        """See `WordVectors`. Words that are not asked for are skipped without computing their vectors."""
        places = self._places([word.encode("utf-8") for word in wanted], self.num_words if most is None else most)
        words = [word.decode("utf-8") for word in places]
        return dict(zip(words, self.of(words), strict=True))

    def _places(self, words: Collection[bytes], most: int) -> dict[bytes, int]:
        """Return the places in the dictionary of those of the words that are among the `most` frequent ones."""
        wanted = frozenset(words)
        entries = enumerate(islice(self._entries(), min(most, self.num_words)))
        return {entry.word: place for place, entry in entries if entry.word in wanted}

    def _vector(self, word: bytes, place: int | None) -> np.ndarray:
        """Return the mean of the rows of a word, float32 [A].

        Args:
            word: the word.
            place: its place in the dictionary; None if it is not there.
        """
        rows = [] if place is None else [place]
        if self.has_ngrams and (place is None or word != END_OF_LINE):
            rows += [self.num_words + hashed(g) % self._buckets for g in ngrams(word, self._shortest, self._longest)]
        if not rows:
            return np.zeros(self.dimensions, dtype=np.float32)
        mean: np.ndarray = self._matrix[rows].mean(axis=0)
        return mean

    def _entries(self) -> Iterator[Entry]:
        """Yield the entries of the dictionary, words before labels; more than there are, if it is not stopped."""
        place = self._first_entry
        while True:
            end = self._content.find(b"\0", place)
            if end < 0:
                raise self.wrong(INCOMPLETE)
            frequency, _ = ENTRY.unpack_from(self._content, end + 1)
            entry = Entry(self._content[place:end], frequency, end + 1 + ENTRY.size)
            yield entry
            place = entry.end


def ngrams(word: bytes, shortest: int, longest: int) -> Iterator[bytes]:
    """Yield the n-grams of ``<word>`` as fastText does, which leaves out the single characters ``<`` and ``>``.

    Args:
        word: UTF-8.
        shortest: characters of the shortest n-grams.
        longest: characters of the longest.

    >>> list(ngrams(b"ab", 1, 3))
    [b'<a', b'<ab', b'a', b'ab', b'ab>', b'b', b'b>']
    """
    bounded = b"<" + word + b">"
    # Bytes 10xxxxxx continue a character.
    starts = [n for n, byte in enumerate(bounded) if byte & 0xC0 != 0x80] + [len(bounded)]
    last = len(starts) - 1
    for start in range(last):
        for length in range(max(1, shortest), min(longest, last - start) + 1):
            if length > 1 or 0 < start < last - 1:
                yield bounded[starts[start] : starts[start + length]]


def hashed(ngram: bytes) -> int:
    """Return fastText's hash of an n-gram: 32-bit FNV-1a, with bytes above 127 taken as negative numbers."""
    value = 2166136261
    for byte in ngram:
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return value
