"""The base model's predictions, converted into distributions over new tokens.

At a common boundary of both tokenizers, the base model's distribution over old tokens becomes one over new tokens
by shares: how often each new token starts where the old token did, counted in the text and smoothed towards the
first new token of the old token's bytes. If the new tokenizer stops inside an old token (after the spaces of
`` def``), only old tokens that start with the bytes already passed are possible. The rest of their bytes is
encoded with the new tokenizer, and its first token is the prediction. The old token with which the text really
continues always stands for the new token with which it continues.

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
"""Old tokens looked at per position; the rest of the distribution is left out."""
SMOOTHING = 2.0
"""Occurrences that the plain first token counts for, beside those in the text."""
NEGLIGIBLE = 1e-4
"""New tokens below this probability are left out of a target."""
IMPOSSIBLE = 1e-3
"""Where the base model gives all old tokens that fit less than this, it has no opinion."""


class TargetMaker:
    """Turns the base model's distributions over old tokens into targets over new ones.

    Args:
        base: the old vocabulary.
        base_rows: rows of the old matrices; tokens beyond have no probability.
        target: the new vocabulary.
        mapping: how the vocabularies match; special tokens keep their counterparts.
        target_segmenter: the new tokenizer, cutting bytes.
        pairs: all passages in both tokenizations, (old, new): the shares are counted in them.
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
        """Targets for the new tokens of a passage: for each a distribution over new tokens, or none.

        Args:
            old: the passage in old tokens.
            new: the passage in new tokens.
            states_TD: float [old tokens, D]: hidden state before each old token.
            matrix_VD: float [V, D]: the old output rows.
            normalised: let each distribution add up to 1. Otherwise what is missing to 1 is the probability that
                was left out: that of unlikely tokens.
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
        """Old tokens that start with these bytes and go on, and the first new token of how they go on."""
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
    """(position, old token, probability) triplets, with new tokens in place of old ones."""
    chosen = shares.select(olds)
    weights = probabilities[chosen.rows] * chosen.weights
    kept = weights >= NEGLIGIBLE / 10
    return rows[chosen.rows][kept], chosen.ids[kept], weights[kept]


def distributions(rows: Tensor, ids: Tensor, weights: Tensor, num_rows: int, *, normalised: bool = True) -> SparseRows:
    """Add up (position, new token, probability) triplets, drop negligible ones, and normalise where that is asked for.

    A position without any has an empty distribution.
    """
    summed = SparseRows.from_triplets(rows, ids, weights, num_rows)
    kept = summed.weights >= NEGLIGIBLE
    chosen = SparseRows.from_triplets(summed.rows[kept], summed.ids[kept], summed.weights[kept], num_rows)
    return chosen.normalised() if normalised else chosen


def _counterparts(special: set[int], target: Vocabulary, mapping: VocabularyMap) -> dict[int, int]:
    """Old special token to the new one that has its row. Of several, the end of sequence is meant, or the first."""
    found: dict[int, int] = {}
    for row, source in enumerate(mapping.sources.tolist()):
        if source in special and (source not in found or row == target.roles.get("eos")):
            found[source] = row
    return found


def _firsts(segmenter: Segmenter, contents: Sequence[bytes]) -> Tensor:
    """The first token of each byte string, int64; -1 where there is none."""
    pieces = segmenter.segment(contents)
    ids = np.append(pieces.ids, -1)
    return torch.from_numpy(np.where(pieces.counts > 0, ids[np.minimum(pieces.indptr[:-1], len(pieces.ids))], -1))
