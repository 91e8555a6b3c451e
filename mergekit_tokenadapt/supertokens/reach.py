"""Can a tokenizer produce its tokens? Nothing leaves this package with a new token that it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.segmentation import Segmenter
from mergekit_tokenadapt.vocabulary import Definition, Token, TokenKind, Vocabulary

BLOCK = 65536


def unreachable(definition: Definition, vocabulary: Vocabulary, only: Iterable[int] | None = None) -> list[Token]:
    """Ordinary tokens whose own text is not cut into them alone, in the order of their ids.

    Text goes the whole way, through normalizer, pre-tokenizer and model. Parts of characters, which no
    text consists of, are given to the model as they are spelt.

    Args:
        definition: the tokenizer.
        vocabulary: its tokens.
        only: ids to look at; all by default.
    """
    wanted = None if only is None else set(only)
    tokens = [t for t in vocabulary if t.kind is TokenKind.ORDINARY and (wanted is None or t.id in wanted)]
    texts = [t for t in tokens if t.text is not None]
    pieces = Segmenter(definition, vocabulary).cut([t.bytes for t in texts])
    lost = {t.id for n, t in enumerate(texts) if pieces[n].tolist() != [t.id]}
    # A longer text may be needed: where a look-ahead cuts, or where a bare spelling cannot be typed.
    lost &= unmergeable(definition, [t for t in texts if t.id in lost]) | _cut_apart(definition, texts)
    parts = [t for t in tokens if t.text is None]
    lost |= unmergeable(definition, parts)
    return [t for t in tokens if t.id in lost]


def unmergeable(definition: Definition, tokens: Iterable[Token]) -> set[int]:
    """Ids of the tokens that the model's merges do not make of their own spelling."""
    model: Mapping[str, Any] = {**definition["model"], "ignore_merges": False}
    bare = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    tokens = list(tokens)
    lost = set()
    for first in range(0, len(tokens), BLOCK):
        block = tokens[first : first + BLOCK]
        encodings = bare.encode_batch_fast([t.spelling for t in block], add_special_tokens=False)
        lost |= {t.id for t, e in zip(block, encodings, strict=True) if e.ids != [t.id]}
    return lost


def _cut_apart(definition: Definition, tokens: Iterable[Token]) -> set[int]:
    """Ids of the tokens whose text the pre-tokenizer cuts."""
    tokenizer = Tokenizer.from_str(json.dumps({**definition, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    cutter = tokenizer.pre_tokenizer
    if cutter is None:
        return set()
    return {t.id for t in tokens if len(cutter.pre_tokenize_str(t.text or "")) > 1}


def check_reachable(definition: Definition, vocabulary: Vocabulary, new: Iterable[int]) -> None:
    """Refuse a vocabulary with new tokens that its own tokenizer never produces.

    Raises:
        TokenAdaptError: there are such tokens; the message shows some.
    """
    lost = unreachable(definition, vocabulary, new)
    if lost:
        shown = ", ".join(repr(t.label) for t in lost[:5])
        raise TokenAdaptError(f"{len(lost)} new tokens could never be produced, among them {shown}")
