"""Where the loss lies that a swap adds: bits beyond the base model's for the same bytes, by kinds of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import models
from benchmarks.healing.cells import BYTES, KINDS, PAIRS, kept, swapped, text_of

SAME = "old token, segmented as before"
AFTER_NEW = "old token after a new one"
OTHERWISE = "old token, segmented otherwise"
SEEN = "new token, in the text"
UNSEEN = "new token, not in the text"
CAUSES = (SAME, AFTER_NEW, OTHERWISE, SEEN, UNSEEN)
"""Kinds of tokens. Old: the base model has a token of the same bytes. In the text: the text to heal with has the token.
Segmented as before: the base model's tokenizer has a token of the same bytes in the same place."""


def causes(pair: str, start: str, *healing: str) -> dict[str, dict[str, list[float]]]:
    """Measure a swapped model, or one that was healed: recipe and amount of a cell of `healed` follow then.

    Returns:
        For each built-in text and each of `CAUSES`: tokens, bits beyond the base model's, and bytes of the text.
    """
    from mergekit_tokenadapt.transfer.matching import match

    base, model = models.fetched(PAIRS[pair][0]), kept(pair, start, *healing) if healing else swapped(pair, start)
    old, new = models.tokenizer_files(base), models.tokenizer_files(model)
    is_old = match(old.vocabulary, new.vocabulary).sources >= 0
    in_text = _in_text(new, text_of(healing[0] if healing else "default"))
    before, after = _scored(base, old), _scored(model, new)
    found: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        sums = np.zeros((len(CAUSES), 2))
        for of_base, document in zip(before[kind], after[kind], strict=True):
            kinds = _kinds(document.ids, document.ends, of_base.ends, is_old, in_text)
            beyond = (document.losses - _spread(of_base.losses, of_base.ends, document.ends)) / np.log(2)
            sums[:, 0] += np.bincount(kinds, minlength=len(CAUSES))
            sums[:, 1] += np.bincount(kinds, beyond, minlength=len(CAUSES))
        num_bytes = sum(document.num_bytes for document in after[kind])
        found[kind] = {cause: [*values, num_bytes] for cause, values in zip(CAUSES, sums.tolist(), strict=True)}
    return found


def _in_text(new: Any, files: Sequence[Path]) -> np.ndarray:
    """Whether a file has the token, bool [new rows]."""
    documents = [file.read_text(encoding="utf-8") for file in files]
    flags = np.zeros(new.vocabulary.num_ids, dtype=bool)
    for encoding in new.fast_tokenizer().encode_batch(documents, add_special_tokens=False):
        flags[encoding.ids] = True
    return flags


def _scored(folder: Path, tokenizer: Any) -> Mapping[str, Sequence[Any]]:
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.losses import Scorer
    from mergekit_tokenadapt.texts import builtin_text

    scorer = Scorer(models.in_float32(folder))
    return {kind: score_documents(scorer, tokenizer, builtin_text(kind).limited(BYTES).documents) for kind in KINDS}


def _kinds(
    ids: np.ndarray, ends: np.ndarray, old_ends: np.ndarray, is_old: np.ndarray, in_text: np.ndarray
) -> np.ndarray:
    """The place of each token's kind in `CAUSES`, int64 [tokens]."""
    old_spans = set(zip(_starts(old_ends).tolist(), old_ends.tolist(), strict=True))
    as_before = np.array([span in old_spans for span in zip(_starts(ends).tolist(), ends.tolist(), strict=True)])
    after_new = np.concatenate([[False], ~is_old[ids][:-1]])
    of_old = np.select([~as_before, after_new], [CAUSES.index(OTHERWISE), CAUSES.index(AFTER_NEW)], CAUSES.index(SAME))
    of_new = np.where(in_text[ids], CAUSES.index(SEEN), CAUSES.index(UNSEEN))
    return np.where(is_old[ids], of_old, of_new)


def _spread(losses: np.ndarray, old_ends: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The base model's losses for the bytes of each new token: an old token's loss is spread evenly over its bytes."""
    totals = np.concatenate([[0], losses.cumsum()])
    return np.diff(np.interp(np.concatenate([[0], ends]), np.concatenate([[0], old_ends]), totals))


def _starts(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ends[:-1]])
