"""Composition of a vocabulary: number of tokens by kind and by script, as Qtok reports it (arXiv 2410.12989)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary

KINDS = (
    "word start",
    "word inside",
    "number",
    "punctuation and symbols",
    "white space",
    "mixed",
    "part of a character",
    "parts of several characters",
    "control characters",
    "byte",
    "added",
    "special",
)
"""Every token has exactly one of these kinds."""

# `unicodedata` has no script property. The first word of a letter's name is its script, with these exceptions.
_RENAMED = {"CJK": "HAN", "IDEOGRAPHIC": "HAN"}
_NOT_SCRIPTS = {"MODIFIER", "MATHEMATICAL", "FEMININE", "MASCULINE", "FULLWIDTH", "HALFWIDTH", "SUPERSCRIPT", "MICRO"}


def make_up(vocabulary: Vocabulary) -> dict[str, Any]:
    """Count the tokens of a vocabulary.

    Returns:
        ``tokens``: their number; ``highest_id``; ``kinds``: kind -> number of tokens, in the order of `KINDS`;
        ``scripts``: script -> number of tokens with letters of it, in descending order.
    """
    kinds = Counter(kind_of(token) for token in vocabulary)
    scripts = Counter(script for token in vocabulary if (script := script_of(token)))
    return {
        "tokens": len(vocabulary),
        "highest_id": vocabulary.num_ids - 1,
        "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "scripts": dict(sorted(scripts.items(), key=lambda item: (-item[1], item[0]))),
    }


def kind_of(token: Token) -> str:
    """Return the token's kind, one of `KINDS`."""
    if token.kind is not TokenKind.ORDINARY:
        return str(token.kind.value)
    text = token.text
    if text is None:
        return "parts of several characters" if _num_characters(token.bytes) > 1 else "part of a character"
    body = text.strip()
    if not body:
        return "white space" if text else "control characters"
    categories = {unicodedata.category(c)[0] for c in body}
    if categories <= {"L", "M"}:
        return "word start" if text[0].isspace() else "word inside"
    if categories == {"N"}:
        return "number"
    if categories <= {"P", "S"}:
        return "punctuation and symbols"
    return "control characters" if categories == {"C"} else "mixed"


def script_of(token: Token) -> str | None:
    """Return the script of a token's letters; ``several`` for more than one script, None for a token without letters.

    >>> from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind
    >>> script_of(Token(0, "", " река".encode(), TokenKind.ORDINARY))
    'Cyrillic'
    """
    if token.kind is not TokenKind.ORDINARY or token.text is None:
        return None
    found = {s for c in token.text if c.isalpha() and (s := script(c))}
    if not found:
        return None
    return found.pop().capitalize() if len(found) == 1 else "several"


def script(character: str) -> str | None:
    """Return the script of a letter in capitals, from its Unicode name; None for a letter without a script.

    >>> script("я"), script("漢")
    ('CYRILLIC', 'HAN')
    """
    word = unicodedata.name(character, "").split(" ")[0].split("-")[0]
    return None if not word or word in _NOT_SCRIPTS else _RENAMED.get(word, word)


def _num_characters(content: bytes) -> int:
    """Count the characters, complete or not, that some bytes of UTF-8 belong to."""
    # Each leading byte starts a character. Continuation bytes at the start belong to one more.
    leading = sum((byte & 0xC0) != 0x80 for byte in content)
    return leading + (content[0] & 0xC0 == 0x80)
