"""Find the keys of a config that hold token ids.

A key holds token ids in three cases. The end of its name says so (``image_token_id``, ``boi_token_index``,
``eos_token_ids``). Or it is one of the known keys of generation configs (phrases, biases, forced ids). Or its content
is a mapping from tokens of the base tokenizer to their ids.

Similar names hold no token ids: counts (``mm_tokens_per_image``), layers (``hybrid_layer_ids``), labels, and ids of
other vocabularies, such as that of an audio codec (``codebook_eos_token_id``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from mergekit_tokenadapt.tokenizer.auto_tokenizer import ROLES
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary


class Shape(Enum):
    """The arrangement of the ids under a key."""

    ROLE = auto()
    """An id, or a list of ids, for a role such as ``eos``."""
    IDS = auto()
    """An id, or lists of ids at any depth."""
    PHRASES = auto()
    """Lists of ids, each of which is a phrase. A phrase that lacks a token is dropped as a whole."""
    PAIRS = auto()
    """Pairs of a position in the output and an id."""
    BIASES = auto()
    """Pairs of a phrase and a number, or a mapping from phrases to numbers."""
    NAMED = auto()
    """A mapping from names to ids."""
    SPELLINGS = auto()
    """A mapping from ids to the spellings of their tokens."""
    ENTRIES = auto()
    """A list of the spellings of all tokens, by id."""


_ROLE_KEY = re.compile(rf"_?({'|'.join(ROLES)})_(tokens?_)?(id|ids|index|idx)")
_TOKEN_KEY = re.compile(r"(.+_|^)tokens?_(id|ids|index|indices|indexes|idx)")
_MARK_KEY = re.compile(r"(.+_)?(start|end|bos|eos|pad|mask|sep|newline|patch|eod|eot|image|video|audio)_ids?")
"""Matches keys such as ``im_start_id``. They hold token ids if the base has special or added tokens with these ids."""
_NAMED_KEY = re.compile(r"(.*_)?(lang|language|task|token)(_code)?_to_(code_)?ids?")
_OTHER_VOCABULARY = re.compile(r"(^|_)(codebook|codec|t2u|vocoder|char|entity|label|layer|speaker)s?(_|$)")
"""Matches keys whose ids belong to another vocabulary than the tokenizer's."""
_BY_NAME = {
    "suppress_tokens": Shape.IDS,
    "begin_suppress_tokens": Shape.IDS,
    "bad_words_ids": Shape.PHRASES,
    "force_words_ids": Shape.PHRASES,
    "forced_decoder_ids": Shape.PAIRS,
    "sequence_bias": Shape.BIASES,
}


def shape_of(key: str, value: Any, base: Vocabulary) -> Shape | None:
    """Return the arrangement of the token ids under a key of a config; None if the key holds no token ids.

    Args:
        key: the last part of the key's path.
        value: the value under the key.
        base: the vocabulary that the ids belong to.
    """
    if key in ("label2id", "id2label") or _OTHER_VOCABULARY.search(key):
        return None
    tests: tuple[tuple[bool, Shape], ...] = (
        (_ROLE_KEY.fullmatch(key) is not None and _holds_ids(value), Shape.ROLE),
        (_TOKEN_KEY.fullmatch(key) is not None and _holds_ids(value), Shape.IDS),
        (_MARK_KEY.fullmatch(key) is not None and _are_control_tokens(value, base), Shape.IDS),
        (_NAMED_KEY.fullmatch(key) is not None and _is_mapping_of(value, int), Shape.NAMED),
    )
    by_name = _BY_NAME.get(key) if value is not None else None
    return by_name or next((shape for fits, shape in tests if fits), None) or _shape_of_content(value, base)


def role_of(key: str) -> str | None:
    """Return the role that a key such as ``eos_token_id`` or ``pad_index`` is for; None for other keys."""
    match = _ROLE_KEY.fullmatch(key)
    return match[1] if match else None


def _shape_of_content(value: Any, base: Vocabulary) -> Shape | None:
    if _is_mapping_of(value, int) and all(_names(name, i, base) for name, i in value.items()):
        return Shape.NAMED
    if _is_mapping_of(value, str) and all(_spells(i, spelling, base) for i, spelling in value.items()):
        return Shape.SPELLINGS
    if isinstance(value, list | tuple) and len(value) >= len(base) > 0 and _lists_spellings(value, base):
        return Shape.ENTRIES
    return None


def _holds_ids(value: Any) -> bool:
    """Return whether a value is an id, None, or a list of these at any depth. True and False are no ids."""
    if isinstance(value, list | tuple):
        return all(map(_holds_ids, value))
    return value is None or type(value) is int


def _are_control_tokens(value: Any, base: Vocabulary) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_are_control_tokens(each, base) for each in value)
    token = base.by_id.get(value) if type(value) is int else None
    return token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED)


def _is_mapping_of(value: Any, kind: type) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(type(each) is kind for each in value.values())


def _names(name: str, token_id: int, base: Vocabulary) -> bool:
    """Return whether a name is a token's spelling, with or without its marks (``<|transcribe|>``, ``transcribe``)."""
    token = base.by_id.get(token_id)
    return token is not None and name in (token.spelling, token.spelling.strip("<|>[]_"))


def _spells(token_id: str, spelling: str, base: Vocabulary) -> bool:
    token = base.by_id.get(int(token_id)) if re.fullmatch("[0-9]{1,9}", str(token_id)) else None
    return token is not None and token.spelling == spelling


def _lists_spellings(value: Sequence[Any], base: Vocabulary) -> bool:
    return all(token.id < len(value) and value[token.id] == token.spelling for token in base)
