"""The weights of the tool transplant-vocab, which makes draft models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import last, places_from_start, proportional
from mergekit_tokenadapt.transfer.transfer import Transfer


class TransplantVocab(Method):
    """Take the last piece's row for an input row, and a front-loaded mean of the pieces' rows for an output row.

    For the pieces i = 1..m: output row = ``sum_i w_i E[i]`` with ``w_i`` in the ratio ``decay^(i - 1)``. The weights
    add up to 1.
    """

    summary: ClassVar[str] = "the last piece's row (input), or a mean in which earlier pieces weigh more (output)"
    source: ClassVar[str] = "transplant-vocab, github.com/jukofyork/transplant-vocab"

    decay: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="a piece's weight over that of the piece before; 0 is the first piece alone, 1 the plain mean",
    )

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of input rows."""
        return last(transfer.pieces)

    def weigh_output(self, transfer: Transfer) -> SparseRows:
        """Return the weights of output rows."""
        return proportional(transfer.pieces, np.power(self.decay, places_from_start(transfer.pieces)))
