"""Divide documents into short passages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator


def split_passages(document: str, longest: int) -> Iterator[str]:
    """Yield passages of at most about `longest` bytes. They end at a line end or after a word where there is one.

    >>> [len(p) for p in split_passages("word " * 500, 2000)]
    [1999, 501]
    >>> [len(p) for p in split_passages("字" * 1000, 2000)]
    [667, 333]
    """
    # From bytes to characters by the document's mean, so that the search below can index the string.
    longest = math.ceil(longest * len(document) / max(1, len(document.encode("utf-8"))))
    start = 0
    while start < len(document):
        end = start + longest
        if end < len(document):
            half = start + longest // 2  # a break in the first half would make the passage too short
            window = document[half:end]
            breaks = (window.rfind("\n") + 1, window.rfind(" "))
            end = next((half + b for b in breaks if b > 0), end)
        yield document[start:end]
        start = end


def halved_to_fit(passages: Iterable[str], most: int | None) -> Iterator[str]:
    """Yield the passages, those of more than `most` bytes in halves, as often as needed; None splits none.

    >>> list(halved_to_fit(["abcde", "字字"], 4))
    ['ab', 'cde', '字', '字']
    """
    for passage in passages:
        if most is None or len(passage.encode("utf-8")) <= most or len(passage) < 2:
            yield passage
        else:
            half = len(passage) // 2
            yield from halved_to_fit((passage[:half], passage[half:]), most)
