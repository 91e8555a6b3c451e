"""New rows as weighted sums of old rows, stored as a sparse matrix of weights.

Letters: N new rows, V rows of the old matrix, D width of a row, Z non-zero weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ROWS = 16384
"""Largest number of new rows in a chunk. Only the old rows that a chunk needs are copied to float32 at a time."""
CHUNK_BYTES = 1 << 25
"""Largest size of a chunk of new rows in bytes of float32, 32 MiB. Wide rows therefore get shorter chunks."""


@dataclass(frozen=True)
class SparseRows:
    """N new rows, each a weighted sum of rows of a V x D matrix, in compressed sparse row (CSR) format.

    Row n is ``sum(weights[j] * matrix[ids[j]] for j in range(indptr[n], indptr[n + 1]))``. A row without weights is
    *empty*: the method found no old rows for it.
    """

    indptr: Tensor
    """int64 [N + 1]"""
    ids: Tensor
    """int64 [Z]: indices of rows of the old matrix."""
    weights: Tensor
    """float32 [Z]"""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def check(self) -> None:
        """Check sparse rows that were read from a file.

        Raises:
            ValueError: the three tensors do not fit together.
        """
        indptr, ids, weights = self.indptr, self.ids, self.weights
        if not indptr.dim() == ids.dim() == weights.dim() == 1 or (indptr.dtype, ids.dtype) != (torch.int64,) * 2:
            raise ValueError("the tensors of sparse rows have wrong shapes or dtypes")
        if not len(indptr) or indptr[0] != 0 or (indptr.diff() < 0).any() or indptr[-1] != len(ids):
            raise ValueError("indptr of sparse rows does not rise from 0 to the number of ids")
        if len(ids) != len(weights) or (ids < 0).any() or weights.dtype != torch.float32:
            raise ValueError("the weights of sparse rows do not fit their ids")

    @property
    def counts(self) -> Tensor:
        """The number of weights of each row, int64 [N]."""
        return self.indptr.diff()

    @property
    def rows(self) -> Tensor:
        """The new row that each weight belongs to, int64 [Z]."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.indptr.device), self.counts)

    def row(self, index: int) -> list[tuple[int, float]]:
        """Return (old id, weight) pairs of one row, by descending weight, then by ascending id."""
        start, end = int(self.indptr[index]), int(self.indptr[index + 1])
        pairs = zip(self.ids[start:end].tolist(), self.weights[start:end].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def select(self, places: Tensor) -> SparseRows:
        """Return some of the rows, in the order of `places`, int64 [number of rows]."""
        counts = self.counts[places]
        indptr = _indptr(counts)
        # Weight j of the result comes from place j + shift, where shift is constant within a row.
        shift = self.indptr[places] - indptr[:-1]
        kept = torch.repeat_interleave(shift, counts) + torch.arange(int(indptr[-1]), device=shift.device)
        return SparseRows(indptr, self.ids[kept], self.weights[kept])

    def cpu(self) -> SparseRows:
        """Return the same rows with their tensors in main memory."""
        return SparseRows(self.indptr.cpu(), self.ids.cpu(), self.weights.cpu())

    @classmethod
    def from_triplets(cls, rows: Tensor, ids: Tensor, weights: Tensor, num_rows: int) -> SparseRows:
        """Pack (row, old id, weight) triplets. Weights with the same row and id are added up.

        Args:
            rows: int64 [Z], the new row of each weight.
            ids: int64 [Z], the old row of each weight.
            weights: [Z], any floating dtype.
            num_rows: N, which may exceed the largest row.

        Raises:
            RuntimeError: a row is not below `num_rows`, or an index is negative.
        """
        # `coalesce` needs some number of columns; the old matrix, which may have more rows, is not known here.
        width = int(ids.max()) + 1 if len(ids) else 1
        places = torch.stack([rows, ids])
        packed = torch.sparse_coo_tensor(places, weights.float(), (num_rows, width), check_invariants=True).coalesce()
        counts = torch.bincount(packed.indices()[0], minlength=num_rows)
        return cls(_indptr(counts), packed.indices()[1], packed.values())

    @classmethod
    def concatenate(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Join the rows of all parts in the order of the parts."""
        counts = torch.cat([part.counts for part in parts])
        return cls(_indptr(counts), torch.cat([p.ids for p in parts]), torch.cat([p.weights for p in parts]))

    def normalised(self) -> SparseRows:
        """Return the rows with the weights of each row divided by their sum. Empty rows stay empty."""
        totals = torch.zeros(len(self)).to(self.weights).index_add_(0, self.rows, self.weights)
        return SparseRows(self.indptr, self.ids, self.weights / totals[self.rows])

    def plus(self, other: SparseRows, share: float) -> SparseRows:
        """Return ``(1 - share) * self + share * other``, row by row.

        If one of the two rows is empty, the other keeps its full weights.
        """
        mine, others = torch.full((len(self),), 1 - share), torch.full((len(self),), share)
        mine, others = mine.to(self.weights), others.to(self.weights)
        mine[other.counts == 0] = 1
        others[self.counts == 0] = 1
        return SparseRows.from_triplets(
            torch.cat([self.rows, other.rows]),
            torch.cat([self.ids, other.ids]),
            torch.cat([self.weights * mine[self.rows], other.weights * others[other.rows]]),
            len(self),
        )

    def apply(self, matrix_VD: Tensor) -> Tensor:
        """Compute the N rows, float32 [N, D], on the device of `matrix_VD`.

        Args:
            matrix_VD: the old matrix, any floating dtype; not changed.
        """
        made_ND = torch.empty((len(self), matrix_VD.shape[1]), dtype=torch.float32, device=matrix_VD.device)
        for places, rows in self.in_chunks(matrix_VD):
            made_ND[places] = rows
        return made_ND

    def in_chunks(self, matrix_VD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Compute the N rows one chunk at a time, so that neither matrix is needed in float32 as a whole.

        Args:
            matrix_VD: the old matrix, any floating dtype; not changed.

        Yields:
            The indices of a chunk of new rows, and these rows, float32 [chunk, D].
        """
        device, width = matrix_VD.device, matrix_VD.shape[1]
        indptr, ids, weights = self.indptr.to(device), self.ids.to(device), self.weights.to(device)
        size = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (4 * max(1, width))))
        for start in range(0, len(self), size):
            end = min(start + size, len(self))
            first, last = int(indptr[start]), int(indptr[end])
            used, place = torch.unique(ids[first:last], return_inverse=True)
            if not len(used):
                yield slice(start, end), torch.zeros((end - start, width), device=device)
                continue
            yield (
                slice(start, end),
                torch.nn.functional.embedding_bag(
                    place,
                    matrix_VD.index_select(0, used).float(),
                    indptr[start:end] - first,
                    mode="sum",
                    per_sample_weights=weights[first:last],
                ),
            )


def _indptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
