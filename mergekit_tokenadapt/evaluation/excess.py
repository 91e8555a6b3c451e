"""Where the loss of a transplanted model sits, beyond what the base model needs for the same bytes.

The base's loss is spread evenly over the bytes of each of its tokens; a token's excess is its loss less
the base's loss on the same bytes. Excesses of a document add up to the difference of the two losses.
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
"""A document scored by a model, and by the base."""

CLASSES = ("new", "copied", "following")
"""New tokens; copied ones; and copied ones right after a new one, whose context is the new row."""


def excess_losses(ours: ScoredDocument, base: ScoredDocument) -> np.ndarray:
    """Loss of each of our tokens beyond the base's on the same bytes, nats, float64 [tokens]."""
    # Where base tokens share an end (parts of one character), their losses belong to that place.
    last = np.append(base.ends[1:] != base.ends[:-1], True) if len(base.ends) else np.zeros(0, dtype=bool)
    places = np.concatenate([[0], base.ends[last]])
    spent = np.concatenate([[0.0], np.cumsum(base.losses)[last]])
    at_ends = np.interp(ours.ends, places, spent)
    return np.asarray(ours.losses - np.diff(at_ends, prepend=0.0))


def token_classes(ids: np.ndarray, origins: RowOrigins) -> np.ndarray:
    """Index into `CLASSES` of every token of a document, int64 [tokens]."""
    is_new = origins.mapping.reasons[ids] == Reason.NEW
    after_new = np.concatenate([[False], is_new[:-1]])
    return np.where(is_new, 0, np.where(after_new, 2, 1))


def loss_shares(pairs: Sequence[Pair], origins: RowOrigins) -> dict[str, dict[str, float]]:
    """Share of tokens, bytes, loss and excess of each class; excess also in bits per byte of the text."""
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
    """The tokens with the most excess loss in all, with what their rows are made of where a plan says so."""
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
    """The old tokens and weights of a row; None where there is no plan or no base to read it with."""
    if origins.plan is None or origins.base is None:
        return None
    old = origins.base.tokenizer.vocabulary.by_id
    return [{"text": old[i].label, "weight": round(w, 4)} for i, w in origins.plan.explain(token_id) if i in old]
