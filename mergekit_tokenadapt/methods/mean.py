"""The plain mean of the pieces' rows: ReTok (arXiv 2410.04335)."""

from __future__ import annotations

from typing import ClassVar

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.transfer import Transfer


class Mean(Method):
    """The mean of the rows of the pieces into which the base tokenizer splits the new token."""

    summary: ClassVar[str] = "mean of the rows of the old pieces"
    source: ClassVar[str] = "ReTok, arXiv 2410.04335"

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return equal weights for all pieces of a token. A piece that occurs twice counts twice."""
        return uniform(transfer.pieces)
