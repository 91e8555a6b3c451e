"""The base class of methods that find old tokens by vectors of tokens, which some tokens do not have."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.drawn_rows import Distribution, DrawnRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.transfer import Transfer


class VectorMethod(Method):
    """A method that combines old tokens for those new tokens that have a vector; `rare` decides about the others."""

    drawn_are: ClassVar[str] = (
        "the row is random, because the token has no vector; each column has the mean and the standard deviation of "
        "the old rows"
    )

    rare: Literal["mean", "random"] = Field(
        default="random",
        description="rows of new tokens without a vector: the mean of their pieces; or random, as in the paper, by the "
        "mean and the variance of the old rows",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all random numbers")

    @abstractmethod
    def combine(self, transfer: Transfer) -> SparseRows:
        """Return the weights of old rows for each of the N new tokens; none for a token without a vector.

        Raises:
            TokenAdaptError: a file that an option names cannot be used.
        """

    def weigh(self, transfer: Transfer) -> SparseRows:
        """See `Method.weigh`."""
        found = self.combine(transfer).cpu()
        if self.rare == "random":
            return found
        pieces = uniform(transfer.pieces)
        is_rare = (found.counts == 0)[pieces.rows]
        return SparseRows.from_triplets(
            torch.cat([found.rows, pieces.rows[is_rare]]),
            torch.cat([found.ids, pieces.ids[is_rare]]),
            torch.cat([found.weights, pieces.weights[is_rare]]),
            len(found),
        )

    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows | None:
        """Return random rows for the tokens without a vector, where `rare` says so."""
        unknown = transfer.new_ids[(weights.counts == 0).numpy()]
        if self.rare == "mean" or not len(unknown):
            return None
        return DrawnRows.of(unknown, transfer.candidate_ids, Distribution.COLUMNS, self.seed)
