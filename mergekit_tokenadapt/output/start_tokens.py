"""Warn where the base model reads a start token before each text, and the new tokenizer puts none there."""

from __future__ import annotations

import logging

import numpy as np

from mergekit_tokenadapt.errors import one_error
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.matching import VocabularyMap

LOG = logging.getLogger(__name__)


def warn_of_start_token(base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Warn if the base tokenizer puts a token before each text and the target tokenizer puts none.

    Some models become much worse without this token, Gemma for one.

    Args:
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
    """
    with one_error("a tokenizer cannot encode a text"):
        before, after = leading_tokens(base), leading_tokens(target)
    if not before or after or before[0] not in base.vocabulary.by_id:  # an id without a token has no row to be lost
        return
    name = base.vocabulary.by_id[before[0]].spelling
    LOG.warning(
        "the base model reads %r before each text, and the target tokenizer %s puts nothing there. Some models become "
        "much worse without it (Gemma). %s",
        name,
        target.name,
        _advice(before[0], name, target, mapping),
    )


def _advice(start: int, name: str, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    vocabulary = target.vocabulary
    same_row = np.flatnonzero(mapping.sources == start).tolist()
    if not same_row:
        return f"No token of the target has its row: token_map: {{{name!r}: TOKEN}} gives it to one"
    bos = vocabulary.roles.get("bos")
    chosen = bos if bos is not None and bos in same_row else same_row[0]
    return f"Put {vocabulary.by_id[chosen].spelling!r}, which has its row, before each text"
