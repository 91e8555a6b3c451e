"""Can a tokenizer produce its tokens? Nothing leaves this package with a new token that it cannot."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.supertokens.pretokenizers import merges_of
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary

LOG = logging.getLogger(__name__)

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
    in_one_piece = whole_pieces(definition)
    return {t.id for t in tokens if not in_one_piece(t.text or "")}


def whole_pieces(definition: Definition) -> Callable[[str], bool]:
    """A function that says whether the tokenizer's pre-tokenizer leaves a text in one piece.

    White space is what it often does not: in ``"\\n \\n"``, one piece of most patterns, a merge may first make
    ``"\\n "``, which by itself is two pieces.
    """
    tokenizer = Tokenizer.from_str(json.dumps({**definition, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    cutter = tokenizer.pre_tokenizer
    if cutter is None:
        return lambda _text: True
    return lambda text: len(cutter.pre_tokenize_str(text)) <= 1


# --- taking out what cannot be produced ------------------------------------------------------------


def pruned(
    definition: Mapping[str, Any], roles: Mapping[str, str], new: Collection[str]
) -> tuple[dict[str, Any], list[Token]]:
    """A copy of a BPE definition without new tokens that it never produces.

    With a token go the merges that make it or need it, and the new tokens that no merge is left for. The new tokens
    that stay keep their order and close up: together they have the lowest of the ids that the new ones had.

    Args:
        definition: the tokenizer.
        roles: its special tokens by role, as `Vocabulary.from_definition` takes them.
        new: spellings of the tokens that may go.

    Returns:
        The definition, and the tokens that are gone, in the order of the ids that they had.
    """
    given = Vocabulary.from_definition(definition, roles)
    result, kept = dict(definition), set(new)
    while True:
        vocabulary = Vocabulary.from_definition(result, roles)
        lost = {t.spelling for t in unreachable(result, vocabulary, [vocabulary.by_spelling[s].id for s in kept])}
        if not lost:
            break
        result["model"] = _without(result["model"], kept, lost)
        kept &= result["model"]["vocab"].keys()
    return result, [t for t in given if t.spelling in new and t.spelling not in kept]


def merged_spellings(definition: Definition) -> set[str]:
    """Spellings of the tokens that a merge makes: of a new tokenizer all but its bytes and special tokens."""
    return {x + y for x, y in merges_of(definition)}


def _without(model: Mapping[str, Any], new: Collection[str], lost: Collection[str]) -> dict[str, Any]:
    """A copy of the model without the lost tokens, and without the new ones that cannot be made without them."""
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
    """Say how many learned tokens were taken out again, and why."""
    if dropped:
        shown = ", ".join(repr(t.label) for t in dropped[:5])
        LOG.warning(
            "%d of the learned tokens were dropped, among them %s: text is cut inside them, so that they would never "
            "be produced, or they are made of such a token",
            len(dropped),
            shown,
        )
