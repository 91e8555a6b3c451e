"""Rows drawn near the mean of all old rows: Hewitt's initialization."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.drawn_method import DrawnMethod
from mergekit_tokenadapt.transfer.drawn_rows import LARGEST_SEED, Distribution, DrawnRows
from mergekit_tokenadapt.transfer.transfer import Transfer


class Hewitt(DrawnMethod):
    """Draw new rows from a normal distribution with the mean and the scaled covariance of the old rows.

    row ~ N(mu, covariance_scale Sigma). mu and Sigma are the mean and the covariance of the rows of the old tokens that
    stand for text.
    """

    summary: ClassVar[str] = "random rows around the mean of the old rows, with their scaled covariance, a baseline"
    source: ClassVar[str] = (
        "Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models, "
        "nlp.stanford.edu/~johnhew/vocab-expansion.html"
    )
    drawn_are: ClassVar[str] = "the row is random; it lies near the mean of all old rows"

    covariance_scale: float = Field(
        default=1e-5,
        ge=0,
        le=1e6,
        description="factor of the covariance; 1e-5 is that of Hewitt's code, 1 that of mergekit's tokensurgeon",
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="seed of the random numbers")

    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows:
        """Return random rows."""
        return DrawnRows.of(
            transfer.new_ids,
            transfer.candidate_ids,
            Distribution.COVARIANCE,
            self.seed,
            scale=self.covariance_scale,
        )
