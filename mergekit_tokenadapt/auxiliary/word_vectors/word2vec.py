"""Word vectors in the formats of word2vec: text, which fastText's ``.vec`` and GloVe's files have as well, and binary.

Text: the first line has the number of words and of dimensions; each other line has a word and its numbers. GloVe's
files lack the first line. Binary: the same first line, then for each word its UTF-8, a space, and its numbers as
float32, little endian. Files whose names end in ``.gz`` are unpacked while they are read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from mergekit_tokenadapt.auxiliary.word_vectors.reading import BATCH, WordBatch, WordVectors, by_zipf, decoded
from mergekit_tokenadapt.errors import TokenAdaptError, first_line

LONGEST_WORD = 4096
"""Bytes of the longest word of a binary file. Without a limit, a file of another format would be read to its end."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of word vectors for reading, unpacked if its name ends in ``.gz``.

    Raises:
        TokenAdaptError: the file cannot be read, or is damaged.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        raise TokenAdaptError(f"word vectors: {str(path)!r} cannot be read: {first_line(error)}") from error


class TextVectors(WordVectors):
    """Word vectors in a text file.

    Raises:
        TokenAdaptError: the first line has another form.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with opened(path) as stream:
            fields = stream.readline().split()
        self._header = _header(fields)
        if self._header is None and len(fields) < 3:
            raise self.wrong("write the numbers of words and of dimensions, or a word and its numbers", "line 1")
        self.dimensions = len(fields) - 1 if self._header is None else self._header[1]
        self.check_dimensions()

    def batches(self, most: int | None = None) -> Iterator[WordBatch]:
        """See `WordVectors`.

        Raises:
            TokenAdaptError: a line is not UTF-8 or has too many or too few numbers, one of them is not finite or not a
                number, or the file ends before its last word.
        """
        num_read, announced = 0, None if self._header is None else self._header[0]
        with opened(self.path) as stream:
            filled = ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
            if self._header is not None:
                next(filled)
            lines = islice(filled, most)
            while some := list(islice(lines, BATCH)):
                yield self._batch(some, num_read)
                num_read += len(some)
        if announced is not None and num_read < (announced if most is None else min(most, announced)):
            raise self.wrong(f"it ends after {num_read:,} words, but its first line says {announced:,}")

    def _batch(self, lines: list[tuple[int, bytes]], first: int) -> WordBatch:
        parsed = [self._parsed(number, line) for number, line in lines]
        with np.errstate(over="ignore"):  # too large numbers become infinite, and are refused
            vectors_BA = np.array([numbers for _, numbers in parsed], dtype=np.float32)
        self.check_finite(vectors_BA, [f"line {number:,}" for number, _ in lines])
        return WordBatch([word for word, _ in parsed], vectors_BA, by_zipf(first, len(parsed)))

    def _parsed(self, number: int, line: bytes) -> tuple[str, list[float]]:
        """Return the word and the numbers of a line. A word may contain spaces."""
        where = f"line {number:,}"
        word, *numbers = line.rstrip().rsplit(b" ", self.dimensions)
        try:
            text = word.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(
                "not UTF-8; convert the file, for instance with iconv, or give its name another ending than "
                ".vec and .txt if it is word2vec's binary format",
                where,
            ) from error
        too_long = " " in text and _is_number(text.rsplit(" ", 1)[1])
        if len(numbers) != self.dimensions or too_long:
            found = len(line.split()) - 1
            raise self.wrong(f"{found:,} numbers after the word, not {self.dimensions:,}", where)
        try:
            return text, list(map(float, numbers))
        except ValueError as error:
            raise self.wrong(first_line(error), where) from error


class BinaryVectors(WordVectors):
    """Word vectors in word2vec's binary format.

    Raises:
        TokenAdaptError: the first line does not have the numbers of words and of dimensions.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with opened(path) as stream:
            header = _header(stream.readline(100).split())
        if header is None:
            raise self.wrong(
                "not a file of word vectors: neither word2vec's text format in UTF-8, nor its binary format, nor "
                "fastText's .bin"
            )
        self.num_words, self.dimensions = header
        self.check_dimensions()

    def batches(self, most: int | None = None) -> Iterator[WordBatch]:
        """See `WordVectors`.

        Raises:
            TokenAdaptError: the file ends before its last word, or a word is malformed, or a number is not finite.
        """
        total = self.num_words if most is None else min(most, self.num_words)
        with opened(self.path) as stream:
            stream.readline()
            for first in range(0, total, BATCH):
                read = [self._read(stream, n) for n in range(first, min(first + BATCH, total))]
                vectors_BA = np.stack([numbers for _, numbers in read])
                self.check_finite(vectors_BA, [f"word {first + n + 1:,}" for n in range(len(read))])
                yield WordBatch([word for word, _ in read], vectors_BA, by_zipf(first, len(read)))

    def _read(self, stream: IO[bytes], place: int) -> tuple[str | None, np.ndarray]:
        word = bytearray()
        while (byte := stream.read(1)) != b" ":
            if not byte or len(word) > LONGEST_WORD:
                raise self.wrong("the file ends here or is damaged", f"word {place + 1:,} of {self.num_words:,}")
            word += byte
        content = stream.read(4 * self.dimensions)
        if len(content) < 4 * self.dimensions:
            raise self.wrong("the file ends here", f"word {place + 1:,} of {self.num_words:,}")
        return decoded(bytes(word).lstrip(b"\n")), np.frombuffer(content, dtype="<f4").astype(np.float32)


def _header(fields: list[bytes]) -> tuple[int, int] | None:
    """Return the numbers of words and of dimensions from the fields of a first line; None if it is no such line."""
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    return int(fields[0]), int(fields[1])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
