"""Find and remove tokens that a tokenizer can never produce. No new token of that kind leaves this package."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary

LOG = logging.getLogger(__name__)

BLOCK = 65536
"""Tokens that are encoded in one call."""


def unreachable(definition: Definition, vocabulary: Vocabulary, only: Iterable[int] | None = None) -> list[Token]:
    """Return the ordinary tokens whose own text is not segmented into that single token, in the order of their ids.

    Text goes through normalizer, pre-tokenizer and model. A token that is a part of a character has no text. Its
    spelling goes to the model directly.

    Args:
        definition: the tokenizer.
        vocabulary: its tokens.
        only: ids to check; None checks all.
    """
    wanted = None if only is None else set(only)
    tokens = [t for t in vocabulary if t.kind is TokenKind.ORDINARY and (wanted is None or t.id in wanted)]
    texts = [t for t in tokens if t.text is not None]
    pieces = Segmenter(definition, vocabulary).segment([t.bytes for t in texts])
    lost = {t.id for n, t in enumerate(texts) if pieces[n].tolist() != [t.id]}
    # A token that fails alone may still occur in a longer text: a look-ahead of the pre-tokenizer sees what follows,
    # and SentencePiece puts a space before the text. Such a token is unreachable only if the merges or the
    # pre-tokenizer alone rule it out.
    lost &= unmergeable(definition, [t for t in texts if t.id in lost]) | _split_by_pre_tokenizer(definition, texts)
    parts = [t for t in tokens if t.text is None]
    lost |= unmergeable(definition, parts)
    return [t for t in tokens if t.id in lost]


def unmergeable(definition: Definition, tokens: Iterable[Token]) -> set[int]:
    """Return the ids of the tokens that the model's merges do not make from the token's own spelling."""
    # ignore_merges would find every token in the vocabulary without trying its merges.
    model: Mapping[str, Any] = {**definition["model"], "ignore_merges": False}
    bare = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    tokens = list(tokens)
    lost = set()
    for first in range(0, len(tokens), BLOCK):
        block = tokens[first : first + BLOCK]
        encodings = bare.encode_batch_fast([t.spelling for t in block], add_special_tokens=False)
        lost |= {t.id for t, e in zip(block, encodings, strict=True) if e.ids != [t.id]}
    return lost


def _split_by_pre_tokenizer(definition: Definition, tokens: Iterable[Token]) -> set[int]:
    """Return the ids of the tokens whose text the pre-tokenizer splits."""
    in_one_piece = whole_pieces(definition)
    return {t.id for t in tokens if not in_one_piece(t.text or "")}


def whole_pieces(definition: Definition) -> Callable[[str], bool]:
    """Return a function that tells whether the tokenizer's pre-tokenizer leaves a text in one piece.

    White space is often split: ``"\\n \\n"`` is one piece of most patterns, and a merge in it may first make ``"\\n
    "``, which alone is two pieces.
    """
    tokenizer = Tokenizer.from_str(json.dumps({**definition, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    cutter = tokenizer.pre_tokenizer
    if cutter is None:
        return lambda _text: True
    return lambda text: len(cutter.pre_tokenize_str(text)) <= 1


# --- removing unreachable tokens -------------------------------------------------------------------


def pruned(
    definition: Mapping[str, Any], roles: Mapping[str, str], new: Collection[str]
) -> tuple[dict[str, Any], list[Token]]:
    """Return a copy of a BPE definition without the new tokens that it never produces.

    The merges that make or need a removed token are removed, too, and so are the new tokens that no merge makes any
    more. The remaining new tokens keep their order and take the lowest ids of all new tokens, without gaps.

    Args:
        definition: the tokenizer.
        roles: its special tokens by role, as `Vocabulary.from_definition` takes them.
        new: spellings of the tokens that may be removed.

    Returns:
        The definition, and the removed tokens in the order of their former ids.
    """
    given = Vocabulary.from_definition(definition, roles)
    result, kept = dict(definition), set(new)
    while True:  # without the removed merges, other tokens may be segmented differently
        vocabulary = Vocabulary.from_definition(result, roles)
        lost = {t.spelling for t in unreachable(result, vocabulary, [vocabulary.by_spelling[s].id for s in kept])}
        if not lost:
            break
        result["model"] = _without(result["model"], kept, lost)
        kept &= result["model"]["vocab"].keys()
    return result, [t for t in given if t.spelling in new and t.spelling not in kept]


def merged_spellings(definition: Definition) -> set[str]:
    """Return the spellings of all tokens that only a merge makes. In a new tokenizer only bytes and added tokens are
    missing.
    """
    return {x + y for x, y in merges_of(definition)} - {entry["content"] for entry in definition["added_tokens"]}


def _without(model: Mapping[str, Any], new: Collection[str], lost: Collection[str]) -> dict[str, Any]:
    """Return a copy of the model without the lost tokens, and without the new tokens that need one of them."""
    merges = [(x, y) for x, y in merges_of({"model": model})]
    made = {x + y for x, y in merges}
    gone: set[str] = set(lost)
    while True:
        merges = [(x, y) for x, y in merges if not gone & {x, y, x + y}]
        orphans = (made & set(new)) - {x + y for x, y in merges} - gone
        if not orphans:
            break
        gone |= orphans
    kept = sorted((s for s in new if s not in gone), key=model["vocab"].__getitem__)
    ids = sorted(model["vocab"][s] for s in new)
    vocab = {s: i for s, i in model["vocab"].items() if s not in new}
    return {**model, "vocab": vocab | dict(zip(kept, ids, strict=False)), "merges": [[x, y] for x, y in merges]}


def tell_dropped(dropped: Sequence[Token]) -> None:
    """Log how many learned tokens were removed again, and why."""
    if dropped:
        shown = ", ".join(repr(t.label) for t in dropped[:5])
        LOG.warning(
            "%d of the learned tokens were dropped, among them %s: the tokenizer would never produce them, or they are "
            "merged from such a token",
            len(dropped),
            shown,
        )
