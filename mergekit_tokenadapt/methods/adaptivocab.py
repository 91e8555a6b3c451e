"""AdaptiVocab's exponential weights: late pieces for input rows, early ones for output rows (arXiv 2503.19693)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import places_from_end, places_from_start, proportional
from mergekit_tokenadapt.transfer.transfer import Transfer


class AdaptiVocab(Method):
    """Weigh the pieces by their place, with weights that rise for input rows and fall for output rows.

    For the pieces i = 1..m: input row = ``sum_i w_i E[i]`` with ``w_i`` in the ratio ``exp(+rate i)``, and output row
    the same with ``exp(-rate i)``. The weights add up to 1. The model has read the last piece when it goes on from the
    token, and it predicts the token where it used to predict the first piece.
    """

    summary: ClassVar[str] = "mean of the pieces, weighted exponentially towards the last (input) or the first (output)"
    source: ClassVar[str] = "AdaptiVocab, arXiv 2503.19693"

    rate: float = Field(
        default=2.0,
        ge=0,
        le=100,
        description="factor of the place in the exponent; 0 is the plain mean, and the authors' code has ln 2 = 0.693",
    )

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of input rows."""
        # exp(rate i) divided by exp(rate m), which does not overflow.
        return proportional(transfer.pieces, np.exp(-self.rate * places_from_end(transfer.pieces)))

    def weigh_output(self, transfer: Transfer) -> SparseRows:
        """Return the weights of output rows."""
        return proportional(transfer.pieces, np.exp(-self.rate * places_from_start(transfer.pieces)))
