"""Read text to learn from as a stream: files, folders, jsonl, gzip, and datasets of the Hugging Face hub.

Only one piece is in memory at a time. It has some ten thousand characters, and ends at a line end if there is one.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.supertokens.counting import REPLACED, Encode, TokenRuns, batches
from mergekit_tokenadapt.supertokens.learning import spooled
from mergekit_tokenadapt.texts.sources import (
    BINARY_PROBE,
    UNREADABLE,
    dataset_texts,
    files_below,
    json_lines,
    open_text,
    parse_text,
)

LOG = logging.getLogger(__name__)

PIECE_CHARACTERS = 1 << 16
"""Approximate size of the pieces that a document is divided into, in characters."""
MOST_NAMED = 10
"""Most files that a warning names."""
_ESCAPED = re.compile("[\udc80-\udcff]")
"""Matches a byte that is not valid UTF-8, as ``surrogateescape`` decodes it."""

Watch = Callable[[Iterator[str]], Iterator[str]]
"""A function that wraps the reading of pieces to show its progress."""
PartT = TypeVar("PartT")


@dataclass
class Corpus:
    """Texts that can be read more than once, and figures from their last reading."""

    sources: Sequence[str]
    """Sources as `parse_text` takes them: ``PATH``, ``NAME=PATH`` or ``hf:ID``, followed by ``,field=...`` where
    needed.
    """
    max_bytes: int = 0
    """Stop after about this many bytes of UTF-8; 0 reads everything."""
    num_bytes: int = field(default=0, init=False)
    """Bytes of UTF-8 that the last reading yielded."""
    num_documents: int = field(default=0, init=False)
    """Documents that the last reading began."""
    num_skipped: int = field(default=0, init=False)
    """Files that were skipped because they contain zero bytes and are therefore binary."""
    replaced: Counter[str] = field(default_factory=Counter, init=False)
    """File -> bytes that are not UTF-8, in any reading so far."""

    def __post_init__(self) -> None:
        self._streams = [_Source.parse(source) for source in self.sources]

    @property
    def size(self) -> int | None:
        """Number of bytes to read, for the progress bar. It is None if it is not known before reading."""
        sizes = [source.size for source in self._streams]
        if any(size is None for size in sizes):
            return self.max_bytes or None
        total = sum(size for size in sizes if size is not None)
        return min(total, self.max_bytes) if self.max_bytes else total

    def pieces(self, max_bytes: int = 0) -> Iterator[str]:
        """Yield the text in pieces. Sources take turns piece by piece, so that every prefix is a mixture of them.

        Args:
            max_bytes: stop after about this many bytes if the corpus has more; 0 sets no limit.

        Raises:
            TokenAdaptError: a source cannot be read, or none of them has text.
        """
        limit = min((n for n in (max_bytes, self.max_bytes) if n), default=0)
        self.num_bytes = self.num_documents = self.num_skipped = 0
        replaced = Counter[str]()
        try:
            for piece in _taking_turns([self._pieces_of(source, replaced) for source in self._streams]):
                self.num_bytes += len(piece.encode("utf-8"))
                yield piece
                if limit and self.num_bytes >= limit:
                    return
        finally:
            # Take the larger count of each file: an earlier reading may have ended within it.
            self.replaced |= replaced
        if not self.num_bytes:
            raise TokenAdaptError(f"there is no text in {', '.join(self.sources)}: nothing can be learned from it")

    def check(self) -> None:
        """Check that every source has text, before the learning starts.

        Raises:
            TokenAdaptError: a source has no text, or it cannot be read.
        """
        for text, source in zip(self.sources, self._streams, strict=True):
            if source.place.startswith("hf:"):
                continue  # a check would download data that the learning then downloads again
            documents = (d for d in source.documents(Counter[str]()) if d is not None)
            if not any(piece for document in documents for piece in document):
                raise TokenAdaptError(f"--text: there is no text in {text}: nothing can be learned from it")

    def token_runs(self, encode: Encode, watch: Watch = iter) -> AbstractContextManager[TokenRuns]:
        """Encode the corpus, and keep its tokens in a temporary file so that they can be read again.

        Args:
            encode: the step from pieces to tokens.
            watch: wraps the reading of the pieces.
        """
        return spooled(encode(watch(self.pieces())))

    def counted(self, count: Callable[[Sequence[str]], PartT], watch: Watch = iter) -> Iterator[PartT]:
        """Yield the result of `count` for lists of pieces. Subclasses may run `count` in another process."""
        return map(count, batches(watch(self.pieces())))

    def tell_unread(self) -> None:
        """Log which text was not read, once the learning is done."""
        for file, number in sorted(self.replaced.items())[:MOST_NAMED]:
            LOG.warning("%s is not UTF-8: %d of its bytes could not be read, and no token contains them", file, number)
        if len(self.replaced) > MOST_NAMED:
            LOG.warning("%d more files are not UTF-8, either", len(self.replaced) - MOST_NAMED)
        if self.num_skipped:
            LOG.warning("%d files were skipped: they contain zero bytes, so they are not text", self.num_skipped)

    def _pieces_of(self, source: _Source, replaced: Counter[str]) -> Iterator[str]:
        for document in source.documents(replaced):
            if document is None:
                self.num_skipped += 1
                continue
            self.num_documents += 1
            yield from document


def _taking_turns(streams: Sequence[Iterator[str]]) -> Iterator[str]:
    """Yield one item of each stream in turn, until all streams have ended."""
    waiting = list(streams)
    while waiting:
        for stream in list(waiting):
            item = next(stream, None)
            if item is None:
                waiting.remove(stream)
            else:
                yield item


@dataclass(frozen=True)
class _Source:
    """One value of ``--text``."""

    place: str
    settings: Mapping[str, str]

    @classmethod
    def parse(cls, source: str) -> _Source:
        text = parse_text(source)
        text.check("--text")
        return cls(text.place, text.settings)

    @property
    def size(self) -> int | None:
        if self.place.startswith("hf:"):
            return None
        files = self._files()
        # The uncompressed size of a gzip file is not known before it is read.
        return None if any(f.suffix == ".gz" for f in files) else sum(f.stat().st_size for f in files)

    def _files(self) -> list[Path]:
        path = Path(self.place)
        return [path] if path.is_file() else files_below(path)

    def documents(self, replaced: Counter[str]) -> Iterator[Iterator[str] | None]:
        """Yield the pieces of each document, or None for a file that is not text.

        Args:
            replaced: is increased by the number of bytes that are not UTF-8, for each file.
        """
        if self.place.startswith("hf:"):
            for text in dataset_texts(self.place.removeprefix("hf:"), self.settings):
                yield split_text(text)
            return
        for file in self._files():
            yield from self._documents_of(file, replaced)

    def _documents_of(self, file: Path, replaced: Counter[str]) -> Iterator[Iterator[str] | None]:
        try:
            with open_text(file) as opened:
                # `is_binary` looked at the file as it is stored. The content of a compressed file is known only here.
                if b"\0" in opened.read(BINARY_PROBE):
                    yield None
                    return
                opened.seek(0)
                text = _Utf8(opened, file, replaced)
                if ".jsonl" in file.suffixes:
                    texts = json_lines(text, self.settings.get("field", "text"), file)
                    yield from (split_text(without_surrogates(document)) for document in texts)
                else:
                    yield _stream_pieces(text)
        except UNREADABLE as error:
            raise TokenAdaptError(f"{file} cannot be read: {first_line(error)}") from error


class _Utf8:
    """A text file that is read with its line ends unchanged. Bytes that are not UTF-8 become U+FFFD and are counted."""

    def __init__(self, opened: IO[bytes], file: Path, replaced: Counter[str]) -> None:
        # With surrogateescape, invalid bytes differ from a U+FFFD that the file itself contains.
        self._text = io.TextIOWrapper(opened, encoding="utf-8", errors="surrogateescape", newline="")
        self._file, self._replaced = str(file), replaced

    def read(self, size: int) -> str:
        return self._checked(self._text.read(size))

    def readline(self, size: int) -> str:
        return self._checked(self._text.readline(size))

    def __iter__(self) -> Iterator[str]:
        return map(self._checked, self._text)

    def _checked(self, text: str) -> str:
        if text.isascii():
            return text
        text, number = _ESCAPED.subn(REPLACED, text)
        if number:
            self._replaced[self._file] += number
        return text


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can spell but UTF-8 cannot encode, by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def split_text(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Divide a text into pieces of about `size` characters, at line ends where it has any.

    >>> list(split_text("one\\ntwo\\nthree", size=5))
    ['one\\ntwo\\n', 'three']
    """
    return _stream_pieces(io.StringIO(text, newline=""), size)


def _stream_pieces(text: IO[str] | _Utf8, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    while piece := text.read(size):
        # The piece goes on to the end of the line, but no further than `size`: some files have no line ends.
        yield piece if piece.endswith("\n") else piece + text.readline(size)
