"""Rows of zeros: a baseline."""

from __future__ import annotations

from typing import ClassVar

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.drawn_method import DrawnMethod
from mergekit_tokenadapt.transfer.drawn_rows import Distribution, DrawnRows
from mergekit_tokenadapt.transfer.transfer import Transfer


class Zero(DrawnMethod):
    """Give every new token a row of zeros.

    The logit of a zero row is 0. Where the logits of all other tokens are negative, it is the largest.
    """

    summary: ClassVar[str] = (
        "rows of zeros, a baseline; such a token is the likeliest where all other logits are negative"
    )
    source: ClassVar[str] = "a baseline, as in mergekit's tokensurgeon"
    drawn_are: ClassVar[str] = "the row is zero; its logit is 0, which is the largest where all others are negative"

    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows:
        """Return rows of zeros."""
        return DrawnRows.of(transfer.new_ids, transfer.candidate_ids, Distribution.ZERO)
