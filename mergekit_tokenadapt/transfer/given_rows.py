"""New rows that are given as numbers, because another model predicted them. They do not depend on the matrix.

Letters: N new rows, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import CHUNK_ROWS
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse


@dataclass(frozen=True)
class GivenRows:
    """N new rows, for input and for output matrices. They are too large to be stored with a plan."""

    new_ids: Tensor
    """int64 [N]: the new rows."""
    inputs_ND: Tensor
    """float [N, D]: for input matrices."""
    outputs_ND: Tensor | None = None
    """float [N, D]: for output matrices; None: as for input matrices. A tied matrix gets the mean of the two."""

    def rows(self, use: MatrixUse, width: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield places among the N new rows, and these rows, float32 [chunk, D], a chunk at a time.

        Args:
            use: what the model does with the matrix.
            width: of the matrix.

        Raises:
            TokenAdaptError: the matrix has another width than the rows.
        """
        if width != self.inputs_ND.shape[1]:
            raise TokenAdaptError(
                f"the rows that were predicted have {self.inputs_ND.shape[1]} numbers, and a vocabulary tensor of the "
                f"model has {width}: they are made for another model"
            )
        outputs_ND = self.inputs_ND if self.outputs_ND is None else self.outputs_ND
        for start in range(0, len(self.new_ids), CHUNK_ROWS):
            places = slice(start, min(start + CHUNK_ROWS, len(self.new_ids)))
            if use is MatrixUse.TIED:
                yield places, torch.lerp(self.inputs_ND[places].float(), outputs_ND[places].float(), 0.5)
            else:
                yield places, (self.inputs_ND if use is MatrixUse.INPUT else outputs_ND)[places].float()
