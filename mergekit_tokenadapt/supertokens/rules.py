"""Rules for the text of a supertoken, and for which neighbouring tokens may be merged.

By default a token does not cross the end of a sentence, has no digits beside other characters, has no line end or
indentation beside a word, and has letters of one script only. `Crossing` names the rules that an option can lift. The
rules are applied to pairs of neighbouring tokens before anything is merged, and once more to the text of every new
token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from mergekit_tokenadapt.options import Flag, Options
from mergekit_tokenadapt.tokenizer.scripts import script
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary

STOPS = ".!?…‽"
"""Characters that end a sentence if white space follows."""
WIDE_STOPS = "。！？｡।॥۔؟።"
"""Characters that end a sentence whatever follows."""
WHITE = " \t\n\x0b\x0c\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space for a character class, as regular expressions define it.

Python's `str.isspace` also accepts U+001C to U+001F.
"""
_CLOSING = "\"'”’»›)\\]}*_`"
"""Closing quotes, brackets and Markdown that may stand between the end of a sentence and the white space."""
_SENTENCE_END = re.compile(f"[{STOPS}][{_CLOSING}]*[{WHITE}]+[^{WHITE}]|[{WIDE_STOPS}][{_CLOSING}]*[^{_CLOSING}]")
"""Matches the end of a sentence and the start of the next one."""
_WHITE = re.compile(f"[{WHITE}]")
_LINE_OR_INDENT = re.compile(f"(?! )[{WHITE}]|  ")
"""Matches white space other than a single space."""
_JAPANESE = {"HIRAGANA", "KATAKANA", "HAN"}
"""Scripts that one Japanese word may mix."""


class Crossing(str, Enum):
    """Boundaries that a token does not cross unless an option allows it. The values are those of the option."""

    DIGITS = "digits"
    """Digits stay grouped as the word pre-tokenizer groups them, and apart from all other characters."""
    LINES = "lines"
    """Line ends, tabs and runs of spaces stay apart from words."""
    SENTENCES = "sentences"
    """A token does not continue from one sentence into the next."""
    SCRIPTS = "scripts"
    """All letters of a token belong to one script. The Japanese scripts count as one."""


class Rules(Options):
    """Rules for the text of new tokens."""

    max_words: PositiveInt = Field(  # SuperBPE's limit (arXiv 2503.13423, section 3.1)
        default=4, description="largest number of words, separated by spaces, in one token"
    )
    max_characters: Annotated[PositiveInt | None, Flag(default="any number")] = Field(
        default=None,
        description="largest number of characters in one token; 3 or 4 makes a vocabulary for text correction (KL3M, "
        "arXiv 2503.17247)",
    )
    punctuation: bool = Field(
        default=True, description="allow punctuation and symbols in one token with words, as in `, and` or `self.`"
    )
    crossing: Annotated[frozenset[Crossing], Flag("cross")] = Field(
        default=frozenset(), description="allow tokens to cross these boundaries"
    )
    characters_only: bool = Field(default=False, description="only join parts of characters into whole characters")

    def allows(self, what: Crossing) -> bool:
        """Return whether tokens may cross this boundary."""
        return what in self.crossing

    def accept(self, content: bytes) -> bool:
        """Return whether a new token may stand for these bytes.

        >>> Rules().accept(b" of the"), Rules().accept(b"end. The"), Rules().accept(b" one of the most")
        (True, False, True)
        """
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return is_part_of_character(content.removeprefix(b" "))
        if self.max_characters is not None and len(text) > self.max_characters:
            return False
        if len(text.split()) > self.max_words or (text.endswith(" ") and text.strip()):
            return False  # a space belongs to the next word, as in GPT-2's vocabulary
        return not any(found not in self.crossing for found in crossed(text))


def crossed(text: str) -> set[Crossing]:
    """Return the boundaries that a token with this text crosses.

    >>> sorted(c.value for c in crossed("word 7")), crossed(" = "), crossed("2024")
    (['digits'], set(), set())
    """
    found = set()
    body = _WHITE.sub("", text)
    if any(c.isnumeric() for c in body) and not all(c.isnumeric() for c in body):
        found.add(Crossing.DIGITS)
    if _LINE_OR_INDENT.search(text) and any(c.isalpha() for c in body):
        found.add(Crossing.LINES)
    if _SENTENCE_END.search(text):
        found.add(Crossing.SENTENCES)
    if len(scripts_of(text)) > 1:
        found.add(Crossing.SCRIPTS)
    return found


def scripts_of(text: str) -> set[str]:
    """Return the scripts of a text's letters.

    >>> sorted(scripts_of("на the")), sorted(scripts_of("ひらがなと漢字"))
    (['CYRILLIC', 'LATIN'], ['JAPANESE'])
    """
    found = {_script(c) for c in text if c.isalpha()} - {None}
    return {s for s in found if s is not None}


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str | None:
    name = script(character)
    return "JAPANESE" if name in _JAPANESE else name


# --- which neighbouring tokens may be merged -----------------------------------------------------


class Edge(NamedTuple):
    """The first or the last character of a token. It decides which neighbours the token may be merged with."""

    kind: str
    """Kind of the character.

    It is letter, digit, punctuation, stop, wide stop, white, space (the token is a single space), or none (the token is
    not merged on this side). For an incomplete character, a last one is open. A first one is rest if the token only
    continues a character, and otherwise opening.
    """
    script: str | None = None
    """Script of a letter."""
    space: bool = False
    """Whether a space precedes the first character."""


NONE = Edge("none")
"""The edge of a token that is not merged on this side."""


def may_join(end: Edge, start: Edge, rules: Rules) -> bool:
    """Return whether a token that ends with `end` and a next token that starts with `start` may become one token."""
    if "none" in (end.kind, start.kind):
        return False
    if end.kind == "open" or start.kind in ("rest", "opening"):
        return end.kind == "open" and start.kind == "rest"  # they are parts of one character
    if rules.characters_only:
        return False
    if end.kind == "space" and start.space:
        return False
    kinds = {end.kind, start.kind}
    if "digit" in kinds and not rules.allows(Crossing.DIGITS):
        return False
    if "white" in kinds and not rules.allows(Crossing.LINES):
        return False
    if not rules.allows(Crossing.SENTENCES) and (end.kind == "wide stop" or (end.kind == "stop" and start.space)):
        return False
    if not rules.punctuation and kinds & {"punctuation", "stop", "wide stop"} and "letter" in kinds:
        return False
    different = end.script and start.script and end.script != start.script
    return rules.allows(Crossing.SCRIPTS) or not different


class Joints:
    """A table of which neighbouring tokens of a vocabulary may become one token.

    Args:
        vocabulary: the tokens before anything is merged.
        rules: rules for the merged token.
    """

    def __init__(self, vocabulary: Vocabulary, rules: Rules) -> None:
        # A vocabulary has few distinct edges. A table over edges is small, where one over tokens would not fit.
        edges = {t.id: edges_of(t, rules) for t in vocabulary}
        starts = {edge: n for n, edge in enumerate(_sorted(start for start, _ in edges.values()))}
        ends = {edge: n for n, edge in enumerate(_sorted(end for _, end in edges.values()))}
        self._start = np.full(vocabulary.num_ids, starts[NONE], dtype=np.int16)
        self._end = np.full(vocabulary.num_ids, ends[NONE], dtype=np.int16)
        for token_id, (start, end) in edges.items():
            self._start[token_id], self._end[token_id] = starts[start], ends[end]
        self._allowed = np.array([[may_join(end, start, rules) for start in starts] for end in ends])

    def allowed(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return for each pair of token ids whether the two may become one token, bool [n].

        Args:
            left: ids of the left tokens, int [n].
            right: ids of the right tokens, int [n].
        """
        result: np.ndarray = self._allowed[self._end[left], self._start[right]]
        return result


def _sorted(edges: Iterable[Edge]) -> list[Edge]:
    return sorted({NONE, *edges}, key=lambda e: (e.kind, e.script or "", e.space))


def edges_of(token: Token, rules: Rules) -> tuple[Edge, Edge]:
    """Return the first and the last edge of a token."""
    if token.kind is not TokenKind.ORDINARY or not token.bytes:
        return NONE, NONE  # this includes byte tokens such as <0x41>: a decoder only knows them unmerged
    body = token.bytes.removeprefix(b" ")
    if not body:
        return NONE, Edge("space")  # a single space belongs to the next word, and never to the word before
    first, last = first_character(body), last_character(token.bytes)
    text = token.text or ""
    if not rules.allows(Crossing.LINES) and _LINE_OR_INDENT.search(text):
        return NONE, NONE
    if not rules.allows(Crossing.DIGITS) and any(c.isnumeric() for c in text):
        return NONE, NONE
    # In UTF-8 a byte 10xxxxxx continues a character.
    is_rest = all(byte & 0xC0 == 0x80 for byte in body)
    if first is None or is_rest:
        start = Edge("rest" if is_rest else "opening")
    else:
        start = _edge(first, space=len(body) < len(token.bytes))
    # A token may be completed to a whole character only if it is nothing but a part of one.
    unfinished = Edge("open") if first is None else NONE
    end = unfinished if last is None else _edge(last)
    return start, end


def _edge(character: str, space: bool = False) -> Edge:
    kind = character_kind(character)
    if kind == "punctuation":
        kind = "stop" if character in STOPS else "wide stop" if character in WIDE_STOPS else kind
    return Edge(kind, _script(character) if kind == "letter" else None, space)


def character_kind(character: str) -> str:
    """Return the kind of a character: letter (or mark), digit, white, or punctuation (everything else).

    >>> [character_kind(c) for c in "a9 ,\\u0301"]
    ['letter', 'digit', 'white', 'punctuation', 'letter']
    """
    if _WHITE.fullmatch(character):
        return "white"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "M": "letter", "N": "digit"}.get(category, "punctuation")


def is_part_of_character(content: bytes) -> bool:
    """Return whether these bytes are the start of one character, or only continue one.

    >>> is_part_of_character(b"\\xe0\\xa4"), is_part_of_character(b"\\xa4"), is_part_of_character(b"a\\xe0")
    (True, True, False)
    """
    if not content or len(content) > 3 or any(byte & 0xC0 != 0x80 for byte in content[1:]):
        return False
    needed = 4 if content[0] >= 0xF0 else 3 if content[0] >= 0xE0 else 2 if content[0] >= 0xC0 else 4
    return content[0] >= 0x80 and len(content) < needed


def first_character(content: bytes) -> str | None:
    """Return the first character of UTF-8 bytes, or None if it is incomplete.

    >>> first_character("é!".encode()), first_character(b"\\xa9!")
    ('é', None)
    """
    for length in range(1, min(4, len(content)) + 1):
        try:
            return content[:length].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None


def last_character(content: bytes) -> str | None:
    """Return the last character of UTF-8 bytes, or None if it is incomplete."""
    for length in range(1, min(4, len(content)) + 1):
        try:
            return content[-length:].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None
