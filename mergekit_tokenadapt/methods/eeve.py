"""EEVE's rows: the mean of the pieces for input, the first piece for output (arXiv 2402.14714)."""

from __future__ import annotations

from typing import ClassVar

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import first, uniform
from mergekit_tokenadapt.transfer.transfer import Transfer


class Eeve(Method):
    """Take the mean of the pieces' rows for an input row, and the first piece's row for an output row."""

    summary: ClassVar[str] = "mean of the pieces' rows (input), or the first piece's row (output)"
    source: ClassVar[str] = "EEVE, arXiv 2402.14714"

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of input rows."""
        return uniform(transfer.pieces)

    def weigh_output(self, transfer: Transfer) -> SparseRows:
        """Return the weights of output rows."""
        return first(transfer.pieces)
