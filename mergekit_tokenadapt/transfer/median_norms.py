"""Composed rows rescaled to the norm that is usual in their group of tokens.

An average of rows is shorter than these rows, and models react to the norm. Letters: V rows of the old matrix, D its
width, M composed rows, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.row_math import row_norms


@dataclass(frozen=True)
class MedianNorms:
    """For each of M composed rows, the old rows whose median norm it gets."""

    groups: Tensor
    """int64 [M]: the group of each composed row; -1 for a row that keeps its norm."""
    indptr: Tensor
    """int64 [G + 1]: where each group's members start in `members`."""
    members: Tensor
    """int64: the old rows of all groups, group by group. No group is empty."""

    @classmethod
    def of(cls, groups: Sequence[int], members: Sequence[Sequence[int]]) -> MedianNorms:
        """Return the norms for composed rows with these groups; `members` lists the old rows of each group."""
        counts = torch.tensor([0, *map(len, members)])
        flat = [i for ids in members for i in ids]
        return cls(torch.tensor(groups), counts.cumsum(0), torch.tensor(flat, dtype=torch.int64))

    def check(self) -> None:
        """Check norms that were read from a file.

        Raises:
            ValueError: the tensors do not fit together.
        """
        for part in (self.groups, self.indptr, self.members):
            if part.dtype != torch.int64 or part.dim() != 1:
                raise ValueError("the tensors of median norms have wrong shapes or dtypes")
        if not len(self.indptr) or self.indptr[0] != 0 or (self.indptr.diff() < 1).any():
            raise ValueError("groups of old rows are empty, or do not start at 0")
        if self.indptr[-1] != len(self.members) or (self.members < 0).any():
            raise ValueError("groups of old rows and their members do not fit together")
        if ((self.groups < -1) | (self.groups >= len(self.indptr) - 1)).any():
            raise ValueError("composed rows have unknown groups")

    def padded(self, num_rows: int) -> MedianNorms:
        """Return the norms for more composed rows: those after the first M keep their own."""
        rest = self.groups.new_full((num_rows - len(self.groups),), -1)
        return MedianNorms(torch.cat([self.groups, rest]), self.indptr, self.members)

    def select(self, places: Tensor) -> MedianNorms:
        """Return the norms of the composed rows at some places, int64, in that order."""
        return MedianNorms(self.groups[places], self.indptr, self.members)

    def rescaled(self, chunks: Iterable[tuple[slice, Tensor]], matrix_VD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of composed rows with the norms of their groups. A zero row stays as it is.

        Args:
            chunks: places among the M rows, and these rows, float32 [chunk, D].
            matrix_VD: the old matrix, any floating dtype, all finite; not changed.
        """
        norms_V, device = row_norms(matrix_VD), matrix_VD.device
        members = self.members.to(device)
        bounds = self.indptr.tolist()
        usual_G = torch.stack([norms_V[members[start:end]].median() for start, end in pairwise(bounds)])
        groups_M = self.groups.to(device)
        for places, rows in chunks:
            groups = groups_M[places]
            norms = row_norms(rows)
            factors = torch.where((groups >= 0) & (norms > 0), usual_G[groups.clamp(min=0)] / norms, 1.0)
            yield places, rows * factors[:, None]
