"""Cutting documents into short passages."""

from __future__ import annotations

import math
from collections.abc import Iterator


def cut_passages(document: str, longest: int) -> Iterator[str]:
    """Passages of about so many bytes at most, ending at the end of a line or a word where there is one.

    >>> [len(p) for p in cut_passages("word " * 500, 2000)]
    [1999, 501]
    >>> [len(p) for p in cut_passages("字" * 1000, 2000)]
    [667, 333]
    """
    longest = math.ceil(longest * len(document) / max(1, len(document.encode("utf-8"))))
    start = 0
    while start < len(document):
        end = start + longest
        if end < len(document):
            half = start + longest // 2
            window = document[half:end]
            breaks = (window.rfind("\n") + 1, window.rfind(" "))
            end = next((half + b for b in breaks if b > 0), end)
        yield document[start:end]
        start = end
