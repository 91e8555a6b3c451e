"""From passages to a training step's input: ids of trained rows, targets, and a sample of the other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.healing.chunks import ChunkedPassage, joined
from mergekit_tokenadapt.healing.targets import Passage
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows

SAMPLED = 4096
"""Rows that are not trained and stand for all such rows in the partition function of a step."""
LEAST_MASS = 0.05
"""A token that the text does not show is trained where the targets give it so much probability altogether."""


def rows_to_train(passages: Sequence[Passage], start: int, num_rows: int) -> Tensor:
    """The rows that a text says something about: of tokens that it shows, and of tokens that targets name.

    Args:
        passages: the text.
        start: the token before each passage.
        num_rows: of the model.

    Returns:
        int64, ascending.
    """
    mass = torch.zeros(num_rows)
    for passage in passages:
        mass.index_add_(0, passage.targets.ids, passage.targets.weights)
        mass[passage.ids] += 1
    mass[start] += 1
    return (mass >= LEAST_MASS).nonzero().flatten()


def with_text(passage: Passage, share: float) -> SparseRows:
    """The targets of a passage, of which the token that follows in the text gets a share.

    A position without a target stays without one.
    """
    targets = passage.targets
    if not share:
        return targets
    places = targets.counts.nonzero().flatten()
    return SparseRows.from_triplets(
        torch.cat([targets.rows, places]),
        torch.cat([targets.ids, passage.ids[places]]),
        torch.cat([targets.weights * (1 - share), torch.full((len(places),), share)]),
        len(targets),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Collator:
    """Makes the input of a step; the same passages give the same input.

    Letters: B passages, T positions, P positions with a target, Z kept probabilities, N sampled rows.
    """

    trained: Tensor
    """int64: the rows that are trained, ascending."""
    num_rows: int
    """Of the model."""
    start: int
    """The token before each passage."""
    seed: int
    text_share: float = 0.0
    """The share of each target that goes to the token that follows in the text."""
    sampled: int = SAMPLED

    @cached_property
    def place_of(self) -> Tensor:
        """int64 [rows]: place among the trained rows, or -1."""
        place_of = torch.full((self.num_rows,), -1)
        place_of[self.trained] = torch.arange(len(self.trained))
        return place_of

    @cached_property
    def others(self) -> Tensor:
        """int64: the rows that are not trained."""
        return (self.place_of < 0).nonzero().flatten()

    def __call__(self, passages: Sequence[Passage]) -> dict[str, Tensor]:
        """Input ids [B, T] as places among the trained rows, and the targets of all positions that have one."""
        inputs_BT = self._inputs(passages)
        positions, parts = [], []
        for n, passage in enumerate(passages):
            targets = self._among_trained(with_text(passage, self.text_share))
            with_target = targets.counts.nonzero().flatten()
            positions.append(n * inputs_BT.shape[1] + with_target)
            parts.append(targets.select(with_target))
        joined = SparseRows.concatenate(parts)
        return {
            "input_ids": inputs_BT,
            "positions": torch.cat(positions),
            "indptr": joined.indptr,
            "columns": joined.ids,
            "weights": joined.weights,
            "others": self._sample(passages),
        }

    def _inputs(self, passages: Sequence[Passage]) -> Tensor:
        longest = max(len(passage.ids) for passage in passages)
        inputs_BT = torch.full((len(passages), longest), int(self.place_of[self.start]))
        for n, passage in enumerate(passages):
            # Padding stands on the right, where a causal model's other positions do not see it.
            inputs_BT[n, 1 : len(passage.ids)] = self.place_of[passage.ids[:-1]]
        return inputs_BT

    def _among_trained(self, targets: SparseRows) -> SparseRows:
        places = self.place_of[targets.ids]
        kept = places >= 0
        return SparseRows.from_triplets(targets.rows[kept], places[kept], targets.weights[kept], len(targets))

    def _sample(self, passages: Sequence[Passage]) -> Tensor:
        if len(self.others) <= self.sampled:
            return self.others
        generator = np.random.default_rng([self.seed, *sorted(passage.number for passage in passages)])
        chosen = generator.choice(len(self.others), self.sampled, replace=False)
        return self.others[torch.from_numpy(np.sort(chosen))]


@dataclass(frozen=True, eq=False, kw_only=True)
class ChunkCollator(Collator):
    """Makes the input of a step for the objective `chunks`."""

    begins_word: Tensor
    """bool [rows]: the tokens that begin a word."""

    def __call__(self, passages: Sequence[ChunkedPassage]) -> dict[str, Tensor]:  # type: ignore[override]
        """Input ids [B, T] as places among the trained rows, and the chunks of all passages."""
        inputs_BT = self._inputs(passages)
        others = self._sample(passages)
        boundary = torch.cat([self.begins_word[self.trained], self.begins_word[others]])
        chunks = joined(passages, self.place_of, boundary, inputs_BT.shape[1])
        return {"input_ids": inputs_BT, "others": others, **chunks}
