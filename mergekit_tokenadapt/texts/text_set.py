"""A named list of documents, and what a report must say about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError


def check_names(names: Sequence[str]) -> None:
    """Refuse texts that a report could not tell apart.

    Raises:
        TokenAdaptError: two have one name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TokenAdaptError(f"two texts have the name {twice[0]!r}: give one of them another, as NAME=PATH")


@dataclass(frozen=True)
class TextSet:
    """Documents of one domain, none of them empty."""

    name: str
    documents: tuple[str, ...]
    source: str
    """Where they come from, as the user wrote it."""
    num_empty: int = 0
    """Documents that were left out because they are empty."""
    num_repaired: int = 0
    """Documents whose bytes were not UTF-8: what could not be read became U+FFFD."""

    @classmethod
    def of(cls, name: str, documents: Iterable[bytes | str], source: str) -> TextSet:
        """Decode documents, leave out empty ones, and count both.

        Raises:
            TokenAdaptError: nothing is left.
        """
        texts, num_repaired = [], 0
        for document in documents:
            # A lone surrogate in a JSON string is as unreadable as a stray byte.
            content = document if isinstance(document, bytes) else document.encode("utf-8", "surrogatepass")
            text = content.decode("utf-8", errors="replace")
            num_repaired += text.encode("utf-8") != content
            texts.append(text)
        kept = tuple(text for text in texts if text)
        if not kept:
            raise TokenAdaptError(f"the text {name!r} ({source}) is empty: there is nothing to score")
        return cls(name, kept, source, len(texts) - len(kept), num_repaired)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(len(document.encode("utf-8")) for document in self.documents)

    @property
    def sha256(self) -> str:
        """Hash of the documents' UTF-8, each followed by a zero byte."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode("utf-8") + b"\0")
        return digest.hexdigest()

    def limited(self, max_bytes: int) -> TextSet:
        """The first documents, until they have `max_bytes` bytes or more; 0 means all of them.

        Documents are never cut: the last one may go beyond the limit.
        """
        if max_bytes == 0:
            return self
        kept, total = [], 0
        for document in self.documents:
            if total >= max_bytes:
                break
            kept.append(document)
            total += len(document.encode("utf-8"))
        return replace(self, documents=tuple(kept))

    def describe(self) -> dict[str, Any]:
        """What was scored, for the report."""
        return {
            "name": self.name,
            "source": self.source,
            "documents": len(self.documents),
            "bytes": self.num_bytes,
            "sha256": self.sha256,
            "empty_left_out": self.num_empty,
            "repaired": self.num_repaired,
        }
