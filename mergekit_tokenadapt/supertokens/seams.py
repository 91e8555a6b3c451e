"""Seams: the kinds of word boundary that a token may be learned across.

A word pre-tokenizer splits text with a regular expression R. Its coarse form is

    (?>R)(?:SEAM(?>R)){0,N}

A *seam* is a kind of boundary between two words, described by the characters on both sides of it. SEAM matches the
allowed seams. The atomic groups match exactly what R alone would match at that place. Every piece of the coarse form is
therefore a run of whole pieces of R: the coarse form only removes boundaries, and only at allowed seams. It is an
ordinary regular expression in an ordinary ``tokenizer.json``.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from mergekit_tokenadapt.supertokens.rules import STOPS, WIDE_STOPS, Crossing, Rules

MAX_PIECES = 64
"""Largest number of pieces of R in one coarse piece. It bounds the time that BPE takes for one piece."""

CLASSES = {"letter": r"[\p{L}\p{M}]", "digit": r"\p{N}", "white": r"\s"}
"""Kind of character -> pattern. Every other character is punctuation. Marks are listed one by one, see `MARK_BLOCKS`.
"""

MARK_BLOCKS = {
    "Devanagari": (0x0900, 0x0980),
    "Bengali": (0x0980, 0x0A00),
    "Gurmukhi": (0x0A00, 0x0A80),
    "Gujarati": (0x0A80, 0x0B00),
    "Oriya": (0x0B00, 0x0B80),
    "Tamil": (0x0B80, 0x0C00),
    "Telugu": (0x0C00, 0x0C80),
    "Kannada": (0x0C80, 0x0D00),
    "Malayalam": (0x0D00, 0x0D80),
    "Sinhala": (0x0D80, 0x0E00),
    "Thai": (0x0E00, 0x0E80),
    "Lao": (0x0E80, 0x0F00),
    "Tibetan": (0x0F00, 0x1000),
    "Myanmar": (0x1000, 0x10A0),
    "Khmer": (0x1780, 0x1800),
}
"""Script whose vowel signs are marks -> range of its code points. GPT-2's pattern splits its words at every vowel sign.
"""


@dataclass(frozen=True)
class Seam:
    """One kind of boundary between words that tokens may be learned across."""

    left: str
    """Kind of the character before the boundary."""
    space: bool
    """Whether a space follows the boundary."""
    right: str
    """Kind of the character after the boundary, or after the space."""
    without: frozenset[str] = frozenset()
    """Characters that the seam leaves out.

    They are ASCII punctuation on the side whose kind is punctuation (the left side where both are). For marks they are
    names of scripts, see `MARK_BLOCKS`.
    """
    ascii_only: bool = False
    """Whether the seam also leaves out punctuation beyond ASCII."""

    @property
    def pattern(self) -> str:
        """Return the regular expression of the boundary: a look-behind and a look-ahead."""
        return f"(?<={self._class(self.left, first=True)})(?={' ' if self.space else ''}{self._class(self.right)})"

    def _class(self, kind: str, first: bool = False) -> str:
        if kind == "mark":
            return f"[{''.join(sorted(marks_of(self.without)))}]"
        if kind != "punctuation":
            return CLASSES[kind]
        without = self.without if first or self.left != "punctuation" else frozenset()
        if self.ascii_only:
            return f"[{_escaped(set(string.punctuation) - without)}]"
        return rf"[^\s\p{{L}}\p{{M}}\p{{N}}{_escaped(without)}]"

    def __str__(self) -> str:
        """Name the two sides, as error messages show them."""
        return f"{self.left} and {'a space with ' if self.space else ''}{self.right}"


@cache
def marks_of(without: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the marks of all blocks of `MARK_BLOCKS` except those named in `without`."""
    blocks = [range(*block) for name, block in MARK_BLOCKS.items() if name not in without]
    return frozenset(chr(n) for block in blocks for n in block if unicodedata.category(chr(n))[0] == "M")


def _escaped(characters: Iterable[str]) -> str:
    return "".join("\\" + c if c in string.punctuation else c for c in sorted(characters))


def seams(rules: Rules) -> list[Seam]:
    """Return the seams that the rules allow."""
    # "." ends a sentence only before white space (not in "3.5" or "self.x"), but "。" does so before anything.
    closing = frozenset() if rules.allows(Crossing.SENTENCES) else frozenset(WIDE_STOPS)
    stops = frozenset() if rules.allows(Crossing.SENTENCES) else closing | frozenset(STOPS)
    found = [Seam("letter", True, "letter"), Seam("letter", False, "mark"), Seam("mark", False, "letter")]
    if rules.punctuation:
        found += [
            Seam("letter", False, "punctuation"),
            Seam("letter", True, "punctuation"),
            Seam("punctuation", False, "letter", closing),
            Seam("punctuation", True, "letter", stops),
            Seam("punctuation", True, "punctuation", stops),
        ]
    if rules.allows(Crossing.DIGITS):
        others = ("letter", "punctuation") if rules.punctuation else ("letter",)
        found += [Seam(kind, space, "digit") for kind in (*others, "digit") for space in (False, True)]
        found += [Seam("digit", space, kind) for kind in others for space in (False, True)]
    if rules.allows(Crossing.LINES):
        others = ("letter", "punctuation") if rules.punctuation else ("letter",)
        found += [Seam(kind, False, "white") for kind in others]
        found += [Seam("white", space, kind) for kind in others for space in (False, True)]
    return found


def coarse_pattern(pattern: str, allowed: Sequence[Seam]) -> str:
    """Return the coarse form of a word pattern; the docstring of this module shows it."""
    seam = "|".join(s.pattern for s in allowed)
    return f"(?>{pattern})(?:(?:{seam})(?>{pattern})){{0,{MAX_PIECES - 1}}}"
