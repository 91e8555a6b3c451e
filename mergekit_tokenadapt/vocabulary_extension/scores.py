"""Append tokens to a Unigram model: find a score for each.

A Unigram model segments a text into the pieces with the largest sum of scores. A new piece gets the score of the least
likely piece of its old segmentation. Scores are negative, so the new piece is better than these pieces together, and
its text becomes one token. No score is below the lowest old one, on which the score of unknown characters depends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, TokenKind


def with_pieces(base: TokenizerFiles, spellings: Sequence[str]) -> dict[str, Any]:
    """Return the base's Unigram model with new pieces. They get the ids after the highest id of the base.

    Raises:
        TokenAdaptError: the ids of added tokens leave a gap, which a list of pieces cannot have.
    """
    model = base.definition["model"]
    pieces = [list(entry) for entry in model["vocab"]]
    lowest = min(score for _, score in pieces)
    # The position in the list is the id, so the added tokens that follow the pieces have to be in the list, too.
    for token_id in range(len(pieces), base.vocabulary.num_ids):
        token = base.vocabulary.by_id.get(token_id)
        if token is None:
            raise TokenAdaptError(
                f"extend: {base.name} has no token of the id {token_id}, below its highest id; a Unigram tokenizer "
                "with such a gap cannot be extended"
            )
        pieces.append([token.spelling, lowest])
    scores = _scores(base, spellings, lowest)
    return {**model, "vocab": pieces + [[s, score] for s, score in zip(spellings, scores, strict=True)]}


def _scores(base: TokenizerFiles, spellings: Sequence[str], lowest: float) -> list[float]:
    """Return the score of each new piece."""
    known = _known_scores(base.definition)
    for token in base.vocabulary:
        if token.kind is not TokenKind.ORDINARY:  # bytes and the unknown token say nothing about a text
            known.pop(token.id, None)
    bare = {"version": "1.0", "added_tokens": [], "model": base.definition["model"]}
    tokenizer = Tokenizer.from_str(json.dumps(bare))
    encodings = tokenizer.encode_batch_fast(list(spellings), add_special_tokens=False)
    return [min((known.get(i, lowest) for i in encoding.ids), default=lowest) for encoding in encodings]


def _known_scores(definition: Definition) -> dict[int, float]:
    return {i: score for i, (_, score) in enumerate(definition["model"]["vocab"])}
