"""The base class of methods whose rows are drawn, whatever the text of the token is."""

from __future__ import annotations

from abc import abstractmethod

import torch

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.drawn_rows import DrawnRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class DrawnMethod(Method):
    """A method that gives all new tokens rows by `draw`, and no weights."""

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return no weights: the rows are drawn."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return SparseRows.from_triplets(nothing, nothing, torch.zeros(0), len(transfer.new_ids))

    @abstractmethod
    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows:
        """Return the rows of all new tokens."""
