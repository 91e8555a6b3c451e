"""Pre-tokenizers: where words end, and which word boundaries a token may be learned across.

A word pre-tokenizer splits text with a regular expression R. Its coarse form is

    (?>R)(?:SEAM(?>R)){0,N}

A *seam* is a kind of boundary between two words, described by the characters on both sides of it. SEAM matches the
allowed seams. The atomic groups match exactly what R alone would match at that place. Every piece of the coarse form is
therefore a run of whole pieces of R: the coarse form only removes boundaries, and only at allowed seams. It is an
ordinary regular expression in an ordinary ``tokenizer.json``.

When an existing vocabulary is extended, a boundary may be removed only where none of its merges could cross it. Its
merges then give the same tokens as before, and the new merges, which come later, only join these tokens.
`Coarsening.of` checks every merge and narrows SEAM where a merge could cross.
"""

from __future__ import annotations

import copy
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.rules import (
    STOPS,
    WIDE_STOPS,
    Crossing,
    Rules,
    character_kind,
    first_character,
    last_character,
)
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, components, speller

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of the ByteLevel pre-tokenizer of `tokenizers` with ``use_regex``."""

DIGITS = {"1": r"\p{N}", "3": r"\p{N}{1,3}", "all": r"\p{N}+"}
"""Value of the option `digits` -> pattern of one piece of digits."""

MAX_PIECES = 64
"""Largest number of pieces of R in one coarse piece. It bounds the time that BPE takes for one piece."""


def word_pattern(digits: str = "3") -> str:
    """Return the default pattern of words. It separates letters, digits, punctuation and white space.

    Line ends and indentation never share a piece with words. Combining marks belong to their letters.

    Args:
        digits: how many digits share a piece: ``1``, ``3`` (up to three) or ``all``.

    Raises:
        TokenAdaptError: `digits` has another value.
    """
    if digits not in DIGITS:
        raise TokenAdaptError(f"digits: take one of {', '.join(DIGITS)}, not {digits!r}")
    words = r"'(?i:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])| ?[\p{L}\p{M}]+"
    return words + "|" + DIGITS[digits] + r"| ?[^\s\p{L}\p{M}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level_split(pattern: str) -> dict[str, Any]:
    """Return the pre-tokenizer that splits with a pattern and spells bytes in GPT-2's alphabet."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level()]}


def _byte_level() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


# --- seams ---------------------------------------------------------------------------------------

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
            return f"[{''.join(sorted(_marks(self.without)))}]"
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
def _marks(without: frozenset[str] = frozenset()) -> frozenset[str]:
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
    """Return the coarse form of a word pattern; the module's docstring shows it."""
    seam = "|".join(s.pattern for s in allowed)
    return f"(?>{pattern})(?:(?:{seam})(?>{pattern})){{0,{MAX_PIECES - 1}}}"


# --- making an existing pre-tokenizer coarser ----------------------------------------------------


@dataclass(frozen=True)
class Coarsening:
    """A tokenizer definition whose pre-tokenizer lets tokens span words."""

    definition: Mapping[str, Any]
    seams: tuple[Seam, ...]
    """Boundaries that tokens can be learned across. It is empty where the pre-tokenizer did not have to change."""
    notes: tuple[str, ...] = ()
    """Boundaries that had to be left out and why, one sentence each."""

    @classmethod
    def of(cls, definition: Definition, rules: Rules) -> Coarsening:
        """Make a tokenizer's pre-tokenizer coarser without changing the tokens that its own merges give.

        Raises:
            TokenAdaptError: the tokenizer cannot learn tokens across words.
        """
        check_model(definition)
        if not _ever_splits(definition):
            return cls(definition, ())
        allowed, notes = narrowed(seams(rules), definition)
        if not any((s.left, s.space, s.right) == ("letter", True, "letter") for s in allowed):
            raise TokenAdaptError(
                "the base's merges reach across the boundaries between words, so that tokens across words would "
                f"change how old text is segmented: {'; '.join(notes)}"
            )
        return cls(coarsened(definition, allowed), tuple(allowed), tuple(notes))


def can_be_coarser(definition: Definition) -> bool:
    """Return whether this tokenizer's pre-tokenizer suits learning words, and then tokens across words."""
    try:
        check_model(definition)
        coarsened(definition, seams(Rules()))
    except TokenAdaptError:
        return False
    return True


def check_model(definition: Definition) -> None:
    """Check that merges can be added to a tokenizer.

    Raises:
        TokenAdaptError: the tokenizer is not BPE, its spellings depend on word boundaries, or it drops merges at
            random.
    """
    model = definition["model"]
    if model.get("type") != "BPE":
        raise TokenAdaptError(
            f"the base is a {model.get('type')} tokenizer: it has no merges to continue, and new entries would change "
            "how old text is segmented; only BPE can be extended (supertokens train makes a new tokenizer)"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise TokenAdaptError(
            "the base spells a word's start or end into its tokens "
            "(continuing_subword_prefix or end_of_word_suffix): no token can reach across words"
        )
    if model.get("dropout"):
        raise TokenAdaptError("the base drops merges at random (dropout): its tokens are not determined by its merges")


def _ever_splits(definition: Definition) -> bool:
    """Return whether the pre-tokenizer ever splits text. SentencePiece-like tokenizers leave a line in one piece."""
    parts = [p for p in components(definition.get("pre_tokenizer")) if p["type"] != "Sequence"]
    normalizer = list(components(definition.get("normalizer")))
    no_spaces = any(p["type"] == "Replace" and p["pattern"].get("String") == " " for p in normalizer)
    for part in parts:
        # Gemma splits at spaces after its normalizer has replaced all spaces: this never splits.
        at_spaces = part["type"] == "Split" and part["pattern"].get("String") == " " and no_spaces
        whole = (part["type"] == "Metaspace" and part.get("split") is False) or (
            part["type"] == "ByteLevel" and not part.get("use_regex", True) and not part.get("add_prefix_space")
        )
        if not (at_spaces or whole):
            return True
    return False


def coarsened(definition: Definition, allowed: Sequence[Seam]) -> dict[str, Any]:
    """Return a copy of a definition in which the last splitting pattern is coarse.

    Raises:
        TokenAdaptError: the pre-tokenizer has another form than those that can be made coarser.
    """
    result = copy.copy(dict(definition))
    parts = _flat(definition.get("pre_tokenizer"))
    last = len(parts) - 1
    if last < 0 or parts[last]["type"] != "ByteLevel" or parts[last].get("add_prefix_space"):
        raise _unknown(parts)
    if parts[last].get("use_regex", True):
        split = byte_level_split(coarse_pattern(GPT2, allowed))["pretokenizers"][0]
        parts[last:] = [split, {**parts[last], "use_regex": False}]
    else:
        split = parts[last - 1] if last else {}
        isolates = (split.get("behavior"), split.get("invert")) in (("Isolated", False), ("Removed", True))
        if split.get("type") != "Split" or "Regex" not in split["pattern"] or not isolates:
            raise _unknown(parts)
        parts[last - 1] = {**split, "pattern": {"Regex": coarse_pattern(split["pattern"]["Regex"], allowed)}}
    result["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    return result


def _flat(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer without the sequences that hold them."""
    return [dict(p) for p in components(part) if p["type"] != "Sequence"]


def _unknown(parts: Sequence[Mapping[str, Any]]) -> TokenAdaptError:
    shown = ", ".join(str(p["type"]) for p in parts) or "none"
    return TokenAdaptError(
        f"the base's pre-tokenizer ({shown}) is none that can be made coarser: it has to end in ByteLevel without "
        "add_prefix_space, and either ByteLevel uses its own pattern or a Split with a regular expression precedes it"
    )


# --- checking that no merge crosses a removed boundary -------------------------------------------


def narrowed(wanted: Sequence[Seam], definition: Definition) -> tuple[list[Seam], list[str]]:
    """Return the seams that no merge of the definition could cross, and notes on what was left out.

    A merge of x and y could cross a boundary if x can end with the character before it and y can start with the
    character after it. A token that holds only a part of a character counts as every character that the part can belong
    to.
    """
    notes: list[str] = []
    current: list[Seam | None] = list(wanted)
    for left, right in _meetings(definition):
        for n, seam in enumerate(current):
            if seam is not None and _is_crossed_by(seam, left, right):
                current[n] = _without(seam, left, right)
                if current[n] is None:
                    meeting = f"{_shown(left)} and {_shown(right)}"
                    notes.append(f"no token across {seam}: a merge of the base joins {meeting}")
    for before, after in zip(wanted, current, strict=True):
        if after is not None and after != before:
            notes.append(f"across {before}: without {_left_out(before, after)}, which merges of the base join")
    return [seam for seam in current if seam is not None], notes


def _left_out(before: Seam, after: Seam) -> str:
    """Name the characters that `after` leaves out and `before` does not."""
    names = sorted(after.without - before.without)
    parts = [(", " if "mark" in (after.left, after.right) else "").join(names)]
    parts += ["punctuation beyond ASCII"] if after.ascii_only else []
    return " and ".join(part for part in parts if part)


def _shown(content: bytes) -> str:
    return repr(content.decode("utf-8", errors="backslashreplace"))


Meeting = tuple[bytes, bytes]
"""The last character of x, and the first character of y with the space before it.

Where a token holds only a part of that character, the token's bytes stand for it.
"""


def _meetings(definition: Definition) -> list[Meeting]:
    """Return the characters that meet in the merges of a definition, without repetition, sorted."""
    spell_out = speller(definition)
    found = set()
    for x, y in merges_of(definition):
        left, right = spell_out(x)[0], spell_out(y)[0]
        # In UTF-8 a byte 10xxxxxx continues a character. If y starts with one, x and y meet within a character.
        if right[0] & 0xC0 == 0x80 or _ends_inside_character(left):
            continue
        last, after = last_character(left), right.removeprefix(b" ")
        first = first_character(after) if after else ""
        # A BPE token with an incomplete last (or first) character consists of that part of a character alone.
        start = right if first is None else right[: len(right) - len(after)] + first.encode("utf-8")
        found.add((left if last is None else last.encode("utf-8"), start))
    return sorted(found)


def merges_of(definition: Definition) -> Iterator[tuple[str, str]]:
    """Yield the merges of a BPE model in their order."""
    for merge in definition["model"].get("merges") or ():
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _ends_inside_character(content: bytes) -> bool:
    """Return whether the bytes end after the first bytes of a character and before its last byte."""
    for length in range(1, min(4, len(content)) + 1):
        byte = content[-length]
        if byte & 0xC0 != 0x80:
            needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return length < needed
    return False


def _is_crossed_by(seam: Seam, left: bytes, right: bytes) -> bool:
    """Return whether a merge in which these characters meet could cross the seam."""
    if seam.right == "white" and right[:1] == b" " and not seam.space:
        return _is_on_side(seam.left, left, seam, first=True)
    if seam.space != (right[:1] == b" "):
        return False
    after = right.removeprefix(b" ")
    return _is_on_side(seam.left, left, seam, first=True) and (not after or _is_on_side(seam.right, after, seam))


def _is_on_side(kind: str, content: bytes, seam: Seam, first: bool = False) -> bool:
    """Return whether a character is on this side of the seam.

    For a part of a character, return whether any character that it can belong to is.
    """
    try:
        character = content.decode("utf-8")
    except UnicodeDecodeError:
        if kind == "mark":
            return content in _parts_of(_marks(seam.without))
        return content in _parts_of_characters(kind) and not (kind == "punctuation" and seam.ascii_only)
    if kind == "mark":
        return character in _marks(seam.without)
    if kind != "punctuation" or character_kind(character) != kind:
        return character_kind(character) == kind
    without = seam.without if first or seam.left != "punctuation" else frozenset()
    return character not in without and (character.isascii() or not seam.ascii_only)


@cache
def _parts_of_characters(kind: str) -> frozenset[bytes]:
    """Return every proper prefix and suffix of the UTF-8 bytes of the characters of a kind.

    Characters that Unicode has not assigned yet count as punctuation, as in regular expressions. Only planes in use are
    enumerated, to save time.
    """
    everything = map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)))
    return _parts_of(frozenset(c for c in everything if character_kind(c) == kind))


@cache
def _parts_of(characters: frozenset[str]) -> frozenset[bytes]:
    """Return every proper prefix and suffix of the UTF-8 bytes of these characters."""
    contents = [c.encode("utf-8") for c in characters]
    return frozenset(part for c in contents for n in range(1, len(c)) for part in (c[:n], c[n:]))


def _without(seam: Seam, left: bytes, right: bytes) -> Seam | None:
    """Return the seam without this character, or None if the whole seam has to go.

    Only punctuation and marks can be left out one by one.
    """
    if "mark" in (seam.left, seam.right):
        content = left if seam.left == "mark" else right
        blocks = seam.without | {
            name for name in MARK_BLOCKS if _includes(content, _marks(frozenset(MARK_BLOCKS) - {name}))
        }
        return None if blocks >= set(MARK_BLOCKS) else replace(seam, without=blocks)
    if "punctuation" not in (seam.left, seam.right):
        return None
    content = left if seam.left == "punctuation" else right.removeprefix(b" ")
    if content and content.isascii():
        return replace(seam, without=seam.without | {content.decode("ascii")})
    # Punctuation beyond ASCII has too many characters to list, so all of it goes. A lone space on the right may come
    # before any character, so the whole seam goes.
    return None if seam.ascii_only or not content else replace(seam, ascii_only=True)


def _includes(content: bytes, characters: frozenset[str]) -> bool:
    """Return whether these bytes are one of the characters or a part of one."""
    return content in _parts_of(characters) or content in {c.encode("utf-8") for c in characters}
