"""A donor: the target as a model with weights. Its rows show which target tokens are similar to each other.

Letters: R rows of the donor, G width of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.numerics.principal_directions import along_principal_directions
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Donor:
    """A donor, whose weights are read only when they are needed."""

    name: str
    """The folder or hub id that the user wrote."""
    trust_remote_code: bool = False

    def check(self, target: Vocabulary) -> None:
        """Check that the donor has a row for every token that its tokenizer's model produces.

        Raises:
            TokenAdaptError: the donor has no weights or too few rows. Added tokens may lack rows.
        """
        rows = self._folder.num_rows
        if rows < target.num_text_ids:
            raise TokenAdaptError(
                f"the donor {self.name!r} has {rows} rows, but its tokenizer has {target.num_text_ids} ids"
            )

    def rows(self, num_ids: int) -> Tensor:
        """Return the reduced rows of the ids 0 to `num_ids` - 1, float32 [num_ids, G], on the CPU.

        Input and output rows stand side by side if they differ. Wide matrices are reduced to their leading principal
        directions. Ids without a row get zeros.
        """
        rows = self._all_rows[:num_ids]
        return torch.cat([rows, rows.new_zeros(num_ids - len(rows), rows.shape[1])])

    @cached_property
    def _all_rows(self) -> Tensor:
        """All reduced rows, float32 [R, G]; values that are not finite are 0. See `rows`."""
        matrices = [torch.nan_to_num(matrix.float(), 0, 0, 0) for matrix in self._matrices()]
        return torch.cat([along_principal_directions(matrix) for matrix in matrices], dim=1)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Return some rows in full width, float32 [len(ids), G], on the CPU.

        Input and output rows stand side by side if they differ. A row with a value that is not finite, or an id without
        a row, gives zeros.

        Args:
            ids: int64.
        """
        there = ids < self._folder.num_rows
        rows = torch.cat([matrix[ids.where(there, 0)].float() for matrix in self._matrices()], dim=1)
        return torch.where(rows.isfinite().all(dim=1, keepdim=True) & there[:, None], rows, 0)

    def _matrices(self) -> Iterator[Tensor]:
        for name in (self._folder.input_matrix, self._folder.output_matrix):
            if name is not None:
                yield self._folder.rows(name)

    @cached_property
    def _folder(self) -> ModelFolder:
        try:
            folder = open_model(self.name, trust_remote_code=self.trust_remote_code)
            _ = folder.num_rows
        except TokenAdaptError as error:
            raise TokenAdaptError(f"this method needs a target with weights: {error}") from error
        return folder
