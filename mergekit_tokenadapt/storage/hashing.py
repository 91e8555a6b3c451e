"""Hash files that may be larger than the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

BLOCK = 1 << 22
"""Bytes of a file that are in memory at a time."""


class Digest(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""


def add_contents(digest: Digest, file: Path) -> None:
    """Add the bytes of a file to a hash."""
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
