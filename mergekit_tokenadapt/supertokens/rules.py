"""What a token may hold: the rules that keep supertokens safe, and which neighbours may become one token.

By default a token never crosses a sentence end, never holds digits beside anything else, never holds a
line end or indentation beside a word, and never mixes scripts. `Crossing` names the rules that a user can
lift. The rules work on pairs of neighbouring tokens, before anything is merged, and once more on the
finished text of every new token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.scripts import script
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary

STOPS = ".!?…‽"
"""Ends of sentences, where white space follows."""
WIDE_STOPS = "。！？｡।॥۔؟።"
"""Ends of sentences, whatever follows."""
WHITE = " \t\n\x0b\x0c\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space as regular expressions have it, for a character class. Python's `isspace` has U+001C to U+001F, too."""
_CLOSING = "\"'”’»›)\\]}*_`"
_SENTENCE_END = re.compile(f"[{STOPS}][{_CLOSING}]*[{WHITE}]+[^{WHITE}]|[{WIDE_STOPS}][{_CLOSING}]*[^{_CLOSING}]")
_WHITE = re.compile(f"[{WHITE}]")
_LINE_OR_INDENT = re.compile(f"(?! )[{WHITE}]|  ")
_JAPANESE = {"HIRAGANA", "KATAKANA", "HAN"}


class Crossing(str, Enum):
    """What tokens do not cross, unless they are allowed to. The names are those of the option."""

    DIGITS = "digits"
    """Digits stay as the word pre-tokenizer groups them, apart from everything else."""
    LINES = "lines"
    """Line ends, tabs and runs of spaces stay apart from words."""
    SENTENCES = "sentences"
    """No token reaches from one sentence into the next."""
    SCRIPTS = "scripts"
    """The letters of a token are of one script; Japanese writing counts as one."""


@dataclass(frozen=True)
class Rules:
    """What new tokens may hold."""

    max_words: int = 4
    """Most words, parted by spaces, in a token; SuperBPE's limit (arXiv 2503.13423, section 3.1)."""
    max_characters: int | None = None
    """Most characters in a token; 3 or 4 makes a vocabulary for text correction (KL3M, arXiv 2503.17247)."""
    punctuation: bool = True
    """Whether punctuation and symbols may be in one token with words, as in ``, and`` or ``self.``."""
    crossing: frozenset[Crossing] = frozenset()
    """Rules that do not hold."""
    characters_only: bool = False
    """Nothing but whole characters may be made, of their parts."""

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise TokenAdaptError(f"max_words is {self.max_words}: a token holds at least one word")
        if self.max_characters is not None and self.max_characters < 1:
            raise TokenAdaptError(f"max_characters is {self.max_characters}: a token holds at least one character")

    def allows(self, what: Crossing) -> bool:
        """Whether tokens may cross this."""
        return what in self.crossing

    def accept(self, content: bytes) -> bool:
        """Whether a new token may stand for these bytes.

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
            return False  # a space belongs to the word after it
        return not any(found not in self.crossing for found in crossed(text))


def crossed(text: str) -> set[Crossing]:
    """The rules that a token with this text breaks.

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
    """The scripts of a text's letters.

    >>> sorted(scripts_of("на the")), sorted(scripts_of("ひらがなと漢字"))
    (['CYRILLIC', 'LATIN'], ['JAPANESE'])
    """
    found = {_script(c) for c in text if c.isalpha()} - {None}
    return {s for s in found if s is not None}


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str | None:
    name = script(character)
    return "JAPANESE" if name in _JAPANESE else name


# --- neighbours ----------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One end of a token, as far as its neighbour is concerned."""

    kind: str
    """letter, digit, punctuation, stop, wide stop, white, space (nothing but one) or none; of a part of a
    character, the end is open, and the start is rest (nothing but the end of one) or opening."""
    script: str | None = None
    space: bool = False
    """Of a beginning: whether a space comes before the character."""


NONE = Edge("none")


def may_join(end: Edge, start: Edge, rules: Rules) -> bool:
    """Whether a token that ends like this and one that starts like that may become one."""
    if "none" in (end.kind, start.kind):
        return False
    if end.kind == "open" or start.kind in ("rest", "opening"):
        return end.kind == "open" and start.kind == "rest"  # parts of one character
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
    """Which neighbouring tokens of a vocabulary may become one token, as a table.

    Args:
        vocabulary: the tokens that text is made of before anything is merged.
        rules: what holds for the result.
    """

    def __init__(self, vocabulary: Vocabulary, rules: Rules) -> None:
        edges = {t.id: edges_of(t, rules) for t in vocabulary}
        starts = {edge: n for n, edge in enumerate(_sorted(start for start, _ in edges.values()))}
        ends = {edge: n for n, edge in enumerate(_sorted(end for _, end in edges.values()))}
        self._start = np.full(vocabulary.num_ids, starts[NONE], dtype=np.int16)
        self._end = np.full(vocabulary.num_ids, ends[NONE], dtype=np.int16)
        for token_id, (start, end) in edges.items():
            self._start[token_id], self._end[token_id] = starts[start], ends[end]
        self._allowed = np.array([[may_join(end, start, rules) for start in starts] for end in ends])

    def allowed(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """For each pair of token ids, whether the two may become one token, bool."""
        result: np.ndarray = self._allowed[self._end[left], self._start[right]]
        return result


def _sorted(edges: Iterable[Edge]) -> list[Edge]:
    return sorted({NONE, *edges}, key=lambda e: (e.kind, e.script or "", e.space))


def edges_of(token: Token, rules: Rules) -> tuple[Edge, Edge]:
    """Beginning and end of a token."""
    if token.kind is not TokenKind.ORDINARY or not token.bytes:
        return NONE, NONE  # byte tokens of SentencePiece, too: merged, they would no longer be decoded
    body = token.bytes.removeprefix(b" ")
    if not body:
        return NONE, Edge("space")  # a space by itself belongs to the word after it, and to nothing before
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
    # Only what holds nothing but a part of one character may be completed.
    unfinished = Edge("open") if first is None else NONE
    end = unfinished if last is None else _edge(last)
    return start, end


def _edge(character: str, space: bool = False) -> Edge:
    kind = character_kind(character)
    if kind == "punctuation":
        kind = "stop" if character in STOPS else "wide stop" if character in WIDE_STOPS else kind
    return Edge(kind, _script(character) if kind == "letter" else None, space)


def character_kind(character: str) -> str:
    """letter (marks, too), digit, white, or punctuation (everything else).

    >>> [character_kind(c) for c in "a9 ,\\u0301"]
    ['letter', 'digit', 'white', 'punctuation', 'letter']
    """
    if _WHITE.fullmatch(character):
        return "white"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "M": "letter", "N": "digit"}.get(category, "punctuation")


def is_part_of_character(content: bytes) -> bool:
    """Whether these bytes are the beginning of one character, or only continue one.

    >>> is_part_of_character(b"\\xe0\\xa4"), is_part_of_character(b"\\xa4"), is_part_of_character(b"a\\xe0")
    (True, True, False)
    """
    if not content or len(content) > 3 or any(byte & 0xC0 != 0x80 for byte in content[1:]):
        return False
    needed = 4 if content[0] >= 0xF0 else 3 if content[0] >= 0xE0 else 2 if content[0] >= 0xC0 else 4
    return content[0] >= 0x80 and len(content) < needed


def first_character(content: bytes) -> str | None:
    """The first character, or None where it is not complete.

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
    """The last character, or None where it is not complete."""
    for length in range(1, min(4, len(content)) + 1):
        try:
            return content[-length:].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None
