"""Random rows: a baseline."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.drawn_method import DrawnMethod
from mergekit_tokenadapt.transfer.drawn_rows import LARGEST_SEED, Distribution, DrawnRows
from mergekit_tokenadapt.transfer.transfer import Transfer


class Random(DrawnMethod):
    """Draw each number of a new row from a normal distribution.

    The distribution has the mean and the standard deviation of the old rows' numbers in the same column. The columns
    are independent of each other.
    """

    summary: ClassVar[str] = "random rows with the old rows' mean and standard deviation in each column, a baseline"
    source: ClassVar[str] = "a baseline; WECHSEL (arXiv 2112.06598) draws tokens that have no word vector like this"
    drawn_are: ClassVar[str] = "the row is random; each column has the mean and the standard deviation of the old rows"

    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="seed of the random numbers")

    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows:
        """Return random rows."""
        return DrawnRows.of(transfer.new_ids, transfer.candidate_ids, Distribution.COLUMNS, self.seed)
