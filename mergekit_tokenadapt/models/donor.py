"""A model that already speaks the target tokenizer: its rows say how tokens relate to each other."""

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
    """The target's model, whose weights are read when they are needed."""

    name: str
    """Folder or hub id, as the user wrote it."""
    trust_remote_code: bool = False

    def check(self, target: Vocabulary) -> None:
        """Refuse a target that cannot be a donor.

        Raises:
            TokenAdaptError: it has no weights, or no row for one of its tokens, added ones aside.
        """
        rows = self._folder.num_rows
        if rows < target.num_text_ids:
            raise TokenAdaptError(
                f"the donor {self.name!r} has {rows} rows, but its tokenizer has {target.num_ids} ids"
            )

    def rows(self, num_ids: int) -> Tensor:
        """The rows of `num_ids` ids, float32 [num_ids, G], as `_all_rows`; 0 for added tokens that have none."""
        rows = self._all_rows[:num_ids]
        return torch.cat([rows, rows.new_zeros(num_ids - len(rows), rows.shape[1])])

    @cached_property
    def _all_rows(self) -> Tensor:
        """All its rows, input and output side by side where they differ, float32 [R, G], on the CPU.

        Wide matrices are seen along their leading principal directions; rows that are not finite are 0.
        """
        matrices = [torch.nan_to_num(matrix.float(), 0, 0, 0) for matrix in self._matrices()]
        return torch.cat([along_principal_directions(matrix) for matrix in matrices], dim=1)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Some of its rows in full width, input and output side by side where they differ, float32, on the CPU.

        Rows that are not finite, or not there, are 0.
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
            raise TokenAdaptError(f"a donor method needs a target with weights: {error}") from error
        return folder
