"""Find out by trial how a tokenizer groups digits and where it puts white space."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter

MAX_GROUP = 9
"""Largest group of digits that is tried."""
LONGEST_RUN = 128
"""Longest run of white space that is tried, in characters."""


def habits(tokenizer: TokenizerFiles) -> dict[str, Any]:
    """Describe a tokenizer's treatment of digits and white space.

    Returns:
        ``digits``: the rule of `digit_grouping`; ``longest_spaces``, ``longest_newlines`` and ``longest_tabs``: length
        of the longest run that is one token; ``space_between_words``: which token holds the space between two words.
    """
    segmenter = Segmenter(tokenizer.definition, tokenizer.vocabulary)
    by_id = tokenizer.vocabulary.by_id

    def segment(text: str) -> list[bytes]:
        return [by_id[i].bytes for i in segmenter.segment([text.encode("utf-8")])[0].tolist()]

    return {
        "digits": digit_grouping(lambda number: [piece.decode("utf-8") for piece in segment(number)]),
        "longest_spaces": _longest_run(" ", segment),
        "longest_newlines": _longest_run("\n", segment),
        "longest_tabs": _longest_run("\t", segment),
        "space_between_words": _space_place(segment("river stone")),
    }


def digit_grouping(segment: Callable[[str], list[str]]) -> str:
    """Describe the rule by which numbers of 1 to 12 digits are segmented; ``learned`` if no rule fits.

    >>> digit_grouping(list)
    'one by one'

    Args:
        segment: segments a number into pieces.
    """
    # A vocabulary without a rule has learned some frequent numbers as tokens. Random numbers do not fit any rule there.
    # The fixed seed makes the answer reproducible.
    generator = random.Random(0)
    numbers = [str(generator.randrange(10 ** (n - 1), 10**n)) for n in range(1, 13) for _ in range(8)]
    pieces = {number: segment(number) for number in numbers}
    for size in range(1, MAX_GROUP + 1):
        if all(pieces[n] == _from_left(n, size) for n in numbers):
            return "one by one" if size == 1 else f"groups of {size} from the left"
        if all(pieces[n] == _from_right(n, size) for n in numbers):
            return f"groups of {size} from the right"
    return "learned"


def _from_left(number: str, size: int) -> list[str]:
    return [number[i : i + size] for i in range(0, len(number), size)]


def _from_right(number: str, size: int) -> list[str]:
    head = len(number) % size
    return ([number[:head]] if head else []) + _from_left(number[head:], size)


def _longest_run(character: str, segment: Callable[[str], list[bytes]]) -> int:
    return max((n for n in range(1, LONGEST_RUN + 1) if len(segment(character * n)) == 1), default=0)


def _space_place(pieces: list[bytes]) -> str:
    """Say which token of ``river stone`` holds the space."""
    if b" " in pieces:
        return "a token of its own"
    if any(p.startswith(b" ") for p in pieces[1:]):
        return "with the next word"
    return "with the word before" if any(p.endswith(b" ") for p in pieces) else "nowhere"
