"""Find the tokens on which a transplanted model loses more than the base model loses on the same bytes.

The loss of each base token is spread evenly over its bytes. The *excess* of a token of the transplanted model is its
loss minus the base's loss on the same bytes. The excesses of a document sum to the difference of the two models'
losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.models.documents import ScoredDocument
from mergekit_tokenadapt.transfer.matching import Reason

Pair = tuple[ScoredDocument, ScoredDocument]
"""One document, scored by the model and by the base."""

CLASSES = ("new", "copied", "following")
"""Classes of tokens: new tokens, copied tokens, and *following* tokens.

A following token is a copied token right after a new token: its context has a new row.
"""


def excess_losses(ours: ScoredDocument, base: ScoredDocument) -> np.ndarray:
    """Return the excess of each token of the model in nats, float64 [tokens]."""
    # Base tokens that are parts of one character share an end. Their losses are added up at that end.
    last = np.append(base.ends[1:] != base.ends[:-1], True) if len(base.ends) else np.zeros(0, dtype=bool)
    places = np.concatenate([[0], base.ends[last]])
    spent = np.concatenate([[0.0], np.cumsum(base.losses)[last]])
    # Linear interpolation spreads the loss of a base token evenly over its bytes.
    at_ends = np.interp(ours.ends, places, spent)
    return np.asarray(ours.losses - np.diff(at_ends, prepend=0.0))


def token_classes(ids: np.ndarray, origins: RowOrigins) -> np.ndarray:
    """Return the class of each token of a document, as an index into `CLASSES`: int64 [tokens]."""
    is_new = origins.mapping.reasons[ids] == Reason.NEW
    after_new = np.concatenate([[False], is_new[:-1]])
    return np.where(is_new, 0, np.where(after_new, 2, 1))


def loss_shares(pairs: Sequence[Pair], origins: RowOrigins) -> dict[str, dict[str, float]]:
    """Return for each class its share of tokens, bytes and loss, and its excess in bits per byte of the whole text."""
    totals = np.zeros((len(CLASSES), 4))
    for ours, base in pairs:
        classes = token_classes(ours.ids, origins)
        lengths = np.diff(ours.ends, prepend=0)
        columns = (np.ones(len(ours.ids)), lengths, ours.losses, excess_losses(ours, base))
        for column, values in enumerate(columns):
            totals[:, column] += np.bincount(classes, values, minlength=len(CLASSES))
    tokens, num_bytes, loss, _ = totals.sum(axis=0)
    return {
        name: {
            "tokens": totals[n, 0] / tokens,
            "bytes": totals[n, 1] / num_bytes,
            "loss": totals[n, 2] / loss,
            "excess_bits_per_byte": totals[n, 3] / math.log(2) / num_bytes,
        }
        for n, name in enumerate(CLASSES)
    }


def top_excess(pairs: Sequence[Pair], origins: RowOrigins, top: int) -> list[dict[str, Any]]:
    """Return the tokens with the highest total excess. If the model has a plan, include what their rows are composed
    of.
    """
    num_rows = origins.mapping.num_rows
    ids = np.concatenate([ours.ids for ours, _ in pairs])
    excess = np.concatenate([excess_losses(*pair) for pair in pairs]) / math.log(2)
    total = np.bincount(ids, excess, minlength=num_rows)
    count = np.bincount(ids, minlength=num_rows)
    worst = sorted(np.unique(ids).tolist(), key=lambda i: (-total[i], i))[:top]
    vocabulary = origins.model.tokenizer.vocabulary
    return [
        {
            "id": i,
            "text": vocabulary.by_id[i].label,
            "reason": Reason(int(origins.mapping.reasons[i])).name.lower(),
            "count": int(count[i]),
            "excess_bits": float(total[i]),
            "excess_bits_each": float(total[i] / count[i]),
            "made_of": _made_of(i, origins),
        }
        for i in worst
    ]


def _made_of(token_id: int, origins: RowOrigins) -> list[dict[str, Any]] | None:
    """Return the old tokens and weights of a row, or None without a plan or a base that knows their texts."""
    if origins.plan is None or origins.base is None:
        return None
    old = origins.base.tokenizer.vocabulary.by_id
    return [{"text": old[i].label, "weight": round(w, 4)} for i, w in origins.plan.explain(token_id) if i in old]
