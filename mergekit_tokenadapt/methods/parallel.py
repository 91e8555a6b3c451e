"""Rows by parallel text: a new token is a mean of the old tokens that stand for it there (TransTokenizer, TokAlign)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.parallel_text import counts_of_one_text, counts_of_two_texts
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.transfer import Transfer


class Parallel(Method):
    """Average old rows by how often their tokens stand for the new token in parallel text.

    With the count c(new, old): row = ``sum_o p_o E[o]``, where p_o is in the ratio ``c(new, o) + prior / m`` for the m
    pieces of the new token, and ``c(new, o)`` for other old tokens. Old tokens with less than `least` are left out.

    With `text`, both tokenizers segment one text, and bytes say which tokens stand for each other. With `base_text` and
    `target_text`, each line translates the other, and IBM model 1 estimates it.
    """

    summary: ClassVar[str] = "mean of the old tokens that stand for a token in a text, or in its translation"
    source: ClassVar[str] = (
        "two texts: TransTokenizer, Remy et al., arXiv 2408.04303; one text: TokAlign, Li et al., arXiv 2506.03523"
    )

    text: str | None = Field(default=None, description="one text for both tokenizers: a file, a folder or jsonl")
    base_text: str | None = Field(default=None, description="lines in the language of the base model: a file")
    target_text: str | None = Field(
        default=None, description="the translations of the lines of base_text, for the new tokenizer: a file"
    )
    prior: float = Field(
        default=1.0, gt=0, le=1e6, description="number of occurrences that are added to the counts of a token's pieces"
    )
    least: float = Field(default=0.01, ge=0, lt=1, description="old tokens with a smaller weight are left out")
    least_count: PositiveInt = Field(
        default=10, description="occurrences that a pair of words needs to count, for two texts"
    )
    iterations: PositiveInt = Field(default=5, description="iterations of IBM model 1, for two texts")

    @model_validator(mode="after")
    def _check_texts(self) -> Parallel:
        if (self.base_text is None) != (self.target_text is None) or (self.text is None) == (self.base_text is None):
            raise TokenAdaptError("it needs either text, or both base_text and target_text")
        return self

    @property
    def files(self) -> Mapping[str, str]:
        """The texts."""
        texts = {"text": self.text, "base_text": self.base_text, "target_text": self.target_text}
        return {option: path for option, path in texts.items() if path is not None}

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the share of each old token.

        Raises:
            TokenAdaptError: a text cannot be read, or a package is missing.
        """
        if self.text is not None:
            counts = counts_of_one_text(transfer, self.text)
        else:
            assert self.base_text is not None
            assert self.target_text is not None
            counts = counts_of_two_texts(
                transfer,
                self.base_text,
                self.target_text,
                iterations=self.iterations,
                least_count=self.least_count,
            )
        pieces = uniform(transfer.pieces)
        shares = SparseRows.from_triplets(
            torch.cat([counts.rows, pieces.rows]),
            torch.cat([counts.ids, pieces.ids]),
            torch.cat([counts.weights, self.prior * pieces.weights]),
            len(pieces),
        ).normalised()
        return _without_small(shares, self.least).normalised()


def _without_small(rows: SparseRows, least: float) -> SparseRows:
    """Leave out weights below `least`, but never the largest of a row."""
    largest = torch.zeros(len(rows)).scatter_reduce(0, rows.rows, rows.weights, "amax")
    kept = (rows.weights >= least) | (rows.weights == largest[rows.rows])
    return SparseRows.from_triplets(rows.rows[kept], rows.ids[kept], rows.weights[kept], len(rows))
