"""A named list of documents, with the figures that a report gives about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError


def check_names(names: Sequence[str]) -> None:
    """Check that all texts have different names, so that a report can tell them apart.

    Raises:
        TokenAdaptError: two texts have one name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TokenAdaptError(f"two texts have the name {twice[0]!r}: give one of them another name, as NAME=PATH")


@dataclass(frozen=True)
class TextSet:
    """Documents of one domain. No document is empty."""

    name: str
    documents: tuple[str, ...]
    source: str
    """The place of the documents, as the user wrote it."""
    num_empty: int = 0
    """Number of documents that were left out because they are empty."""
    num_repaired: int = 0
    """Number of documents that were not valid UTF-8. Their invalid bytes became U+FFFD."""

    @classmethod
    def of(cls, name: str, documents: Iterable[bytes | str], source: str) -> TextSet:
        """Decode documents, leave out empty ones, and count repaired and empty ones.

        Raises:
            TokenAdaptError: no document is left.
        """
        texts, num_repaired = [], 0
        for document in documents:
            # JSON can spell a lone surrogate, which is not valid Unicode text. It is treated like an invalid byte.
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
        """Number of UTF-8 bytes of all documents."""
        return sum(len(document.encode("utf-8")) for document in self.documents)

    @property
    def sha256(self) -> str:
        """SHA-256 of the documents' UTF-8, with a zero byte after each document."""
        # The zero byte tells ("ab", "c") from ("a", "bc").
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode("utf-8") + b"\0")
        return digest.hexdigest()

    def limited(self, max_bytes: int) -> TextSet:
        """Keep the first documents until they have at least `max_bytes` bytes; 0 keeps all.

        Documents stay whole, so the last one may exceed the limit.
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
        """Return the figures of this text for a report."""
        return {
            "name": self.name,
            "source": self.source,
            "documents": len(self.documents),
            "bytes": self.num_bytes,
            "sha256": self.sha256,
            "empty_left_out": self.num_empty,
            "repaired": self.num_repaired,
        }
