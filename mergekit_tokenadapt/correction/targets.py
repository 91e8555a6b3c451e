"""Convert the base model's predictions into distributions over new tokens.

Where both tokenizers have a boundary, the probability of each old token is distributed over new tokens. The shares are
counted in the text: how often each new token starts where this old token starts. They are smoothed towards the first
new token of the old token's bytes.

If the new tokenizer has a boundary inside an old token (after the spaces of `` def``), only old tokens that start with
the bytes already passed are possible. The rest of their bytes is segmented with the new tokenizer, and its first token
is the prediction.

In both cases, the probability of the old token that follows in the text goes to the new token that follows in the text.

Letters: P positions, K old tokens that are examined, V old rows, D width.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.alignment import Encoded, standing_at
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import VocabularyMap

TOGETHER = 64
"""Positions whose logits are computed at a time. Larger tensors would get new pages from the operating system every
time, which takes a fifth of the time of a passage."""
LIKELIEST = 64
"""Number of most likely old tokens that are examined per position. The rest of the distribution is left out."""
SMOOTHING = 2.0
"""Number of occurrences that are added for the first new token of an old token's bytes."""
NEGLIGIBLE = 1e-4
"""New tokens below this probability are left out of a target."""
IMPOSSIBLE = 1e-3
"""If all old tokens that fit have less probability than this together, the position gets no target."""


class TargetMaker:
    """Turns the base model's distributions over old tokens into target distributions over new tokens.

    Args:
        base: the old vocabulary.
        base_rows: number of rows of the old matrices. Tokens with ids beyond them have no probability.
        target: the new vocabulary.
        mapping: how the vocabularies match. The probability of a special token goes to its new counterpart.
        target_segmenter: segments bytes into new tokens.
        pairs: all passages, in old and in new tokens. The shares are counted in them.
    """

    def __init__(
        self,
        base: Vocabulary,
        base_rows: int,
        target: Vocabulary,
        mapping: VocabularyMap,
        target_segmenter: Segmenter,
        pairs: Sequence[tuple[Encoded, Encoded]],
    ) -> None:
        self._segmenter = target_segmenter
        tokens = [t for t in base if t.id < base_rows and t.bytes and t.kind is not TokenKind.SPECIAL]
        self._sorted = sorted((t.bytes, t.id) for t in tokens)
        self._bytes = {t.id: t.bytes for t in tokens}
        special = {t.id for t in base if t.kind is TokenKind.SPECIAL and t.id < base_rows}
        self._inside: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._shares = self._count(base_rows, pairs, _counterparts(special, target, mapping))

    def make(
        self, old: Encoded, new: Encoded, states_TD: Tensor, matrix_VD: Tensor, *, normalised: bool = True
    ) -> SparseRows:
        """Return the target distribution of each new token of a passage; it is empty where no target can be made.

        Args:
            old: the passage in old tokens.
            new: the passage in new tokens.
            states_TD: float [old tokens, D]; the base model's hidden states that predict each old token.
            matrix_VD: float [V, D]; the old output rows.
            normalised: whether each distribution adds up to 1. Otherwise its sum is lower by the probability of the
                unlikely tokens that were left out.
        """
        places, passed = standing_at(old, new)
        plain = np.flatnonzero((places >= 0) & (passed == 0))
        inside = np.flatnonzero((places >= 0) & (passed > 0))
        parts = [
            self._at_boundaries(old, new, positions, places[positions], states_TD, matrix_VD)
            for positions in np.array_split(plain, 1 + len(plain) // TOGETHER)
        ]
        for positions in np.array_split(inside, 1 + len(inside) // TOGETHER):
            logits_PV = (
                (states_TD[torch.from_numpy(places[positions]).to(states_TD.device)] @ matrix_VD.T).float().cpu()
            )
            for position, logits_V in zip(positions.tolist(), logits_PV, strict=True):
                true = int(old.ids[places[position]])
                already = self._bytes.get(true, b"")[: passed[position]]
                parts += self._inside_token(position, true, int(new.ids[position]), already, logits_V)
        rows, ids, weights = (torch.cat(column) for column in zip(*parts, strict=True))
        return distributions(rows, ids, weights, len(new.ids), normalised=normalised)

    def _at_boundaries(
        self,
        old: Encoded,
        new: Encoded,
        positions: np.ndarray,
        places: np.ndarray,
        states_TD: Tensor,
        matrix_VD: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (position, new token, probability) triplets for positions where both tokenizers have a boundary."""
        logits_PV = states_TD[torch.from_numpy(places).to(states_TD.device)] @ matrix_VD.T
        top = logits_PV.float().softmax(dim=1).topk(min(LIKELIEST, logits_PV.shape[1]), dim=1)
        probabilities_PK, ids_PK = top.values.cpu(), top.indices.cpu()
        true_P1 = torch.from_numpy(old.ids[places])[:, None]
        rows_PK = torch.from_numpy(positions)[:, None].expand_as(ids_PK)
        is_true = ids_PK == true_P1
        meant_PK = torch.from_numpy(new.ids[positions])[:, None].expand_as(ids_PK)
        truth = (rows_PK[is_true], meant_PK[is_true], probabilities_PK[is_true])
        others = _spread(self._shares, rows_PK[~is_true], ids_PK[~is_true], probabilities_PK[~is_true])
        rows, ids, weights = (torch.cat(pair) for pair in zip(truth, others, strict=True))
        return rows, ids, weights

    def _inside_token(
        self, position: int, true: int, meant: int, passed: bytes, logits_V: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (position, new token, probability) triplets for a position inside an old token.

        Args:
            position: the place of the new token in its passage.
            true: the old token that the position is in.
            meant: the new token that follows in the text.
            passed: the bytes of the old token before the position.
            logits_V: the base model's logits for the old token.
        """
        candidates, firsts = self._starting_with(passed)
        chosen = logits_V[candidates]
        if not passed or float((chosen.logsumexp(0) - logits_V.logsumexp(0)).exp()) < IMPOSSIBLE:
            return []
        ids = torch.where(candidates == true, meant, firsts)
        weights = chosen.softmax(0)
        usable = (ids >= 0) & (weights >= NEGLIGIBLE)
        ids, weights = ids[usable], weights[usable]
        return [(torch.full_like(ids, position), ids, weights)]

    def _starting_with(self, passed: bytes) -> tuple[Tensor, Tensor]:
        """Return the longer old tokens that start with these bytes, and the first new token of their other bytes."""
        if passed not in self._inside:
            first = bisect.bisect_left(self._sorted, (passed,))
            last = first
            while last < len(self._sorted) and self._sorted[last][0].startswith(passed):
                last += 1
            longer = [(content, i) for content, i in self._sorted[first:last] if len(content) > len(passed)]
            firsts = _firsts(self._segmenter, [content[len(passed) :] for content, _ in longer])
            self._inside[passed] = (torch.tensor([i for _, i in longer], dtype=torch.int64), firsts)
        return self._inside[passed]

    def _count(
        self, base_rows: int, pairs: Sequence[tuple[Encoded, Encoded]], counterparts: dict[int, int]
    ) -> SparseRows:
        """Return the shares: for each old token a distribution over the new tokens that start where it starts."""
        olds, news = [], []
        for old, new in pairs:
            places, passed = standing_at(old, new)
            at = np.flatnonzero((places >= 0) & (passed == 0))
            olds.append(old.ids[places[at]])
            news.append(new.ids[at])
        seen, counts = np.unique(np.stack([np.concatenate(olds), np.concatenate(news)]), axis=1, return_counts=True)
        seen, counts = seen[:, seen[0] < base_rows], counts[seen[0] < base_rows]

        ids = [i for _, i in self._sorted]
        firsts = _firsts(self._segmenter, [content for content, _ in self._sorted]).numpy()
        plain_old = np.array([*ids, *counterparts.keys()], dtype=np.int64)
        plain_new = np.array([*firsts, *counterparts.values()], dtype=np.int64)
        plain_old, plain_new = plain_old[plain_new >= 0], plain_new[plain_new >= 0]
        smoothing = np.full(len(plain_old), SMOOTHING)
        counted = SparseRows.from_triplets(
            torch.from_numpy(np.concatenate([seen[0], plain_old])),
            torch.from_numpy(np.concatenate([seen[1], plain_new])),
            torch.from_numpy(np.concatenate([counts, smoothing])).float(),
            base_rows,
        )
        return counted.normalised()


def _spread(shares: SparseRows, rows: Tensor, olds: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distribute the probabilities of old tokens over new tokens by their shares, as triplets.

    The triplets are (position, token, probability).
    """
    chosen = shares.select(olds)
    weights = probabilities[chosen.rows] * chosen.weights
    # Several small parts may add up to one that is not negligible, so the limit is lower here.
    kept = weights >= NEGLIGIBLE / 10
    return rows[chosen.rows][kept], chosen.ids[kept], weights[kept]


def distributions(rows: Tensor, ids: Tensor, weights: Tensor, num_rows: int, *, normalised: bool = True) -> SparseRows:
    """Add up (position, new token, probability) triplets, drop sums below `NEGLIGIBLE`, and normalise if asked to.

    A position without triplets has an empty distribution.
    """
    summed = SparseRows.from_triplets(rows, ids, weights, num_rows)
    kept = summed.weights >= NEGLIGIBLE
    chosen = SparseRows.from_triplets(summed.rows[kept], summed.ids[kept], summed.weights[kept], num_rows)
    return chosen.normalised() if normalised else chosen


def _counterparts(special: set[int], target: Vocabulary, mapping: VocabularyMap) -> dict[int, int]:
    """Return old special token -> new special token that has its row.

    If several new tokens have one row, the end-of-sequence token is taken, or the first of them.
    """
    found: dict[int, int] = {}
    for row, source in enumerate(mapping.sources.tolist()):
        if source in special and (source not in found or row == target.roles.get("eos")):
            found[source] = row
    return found


def _firsts(segmenter: Segmenter, contents: Sequence[bytes]) -> Tensor:
    """Return the first token of each byte string, int64; -1 for a byte string without tokens."""
    pieces = segmenter.segment(contents)
    ids = np.append(pieces.ids, -1)
    return torch.from_numpy(np.where(pieces.counts > 0, ids[np.minimum(pieces.indptr[:-1], len(pieces.ids))], -1))
