"""Check the merges of a tokenizer against seams: a seam that a merge could cross is narrowed or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.supertokens.rules import character_kind, first_character, last_character
from mergekit_tokenadapt.supertokens.seams import MARK_BLOCKS, Seam, marks_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, speller


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
                    notes.append(f"no new token spans a boundary between {seam}: a merge of the base joins {meeting}")
    for before, after in zip(wanted, current, strict=True):
        if after is not None and after != before:
            left_out = _left_out(before, after)
            notes.append(
                f"new tokens may span a boundary between {before}, but not at {left_out}: there, merges of the base "
                "join both sides"
            )
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
            return content in _parts_of(marks_of(seam.without))
        return content in _parts_of_characters(kind) and not (kind == "punctuation" and seam.ascii_only)
    if kind == "mark":
        return character in marks_of(seam.without)
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
            name for name in MARK_BLOCKS if _includes(content, marks_of(frozenset(MARK_BLOCKS) - {name}))
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
