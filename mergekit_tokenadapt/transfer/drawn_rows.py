"""New rows that are drawn from a distribution of the old rows, whatever the new token's text is.

Letters: V rows of the old matrix, D its width, C old rows that the distribution is fitted on, N new rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.sparse_rows import CHUNK_ROWS
from mergekit_tokenadapt.numerics.threads import one_thread
from mergekit_tokenadapt.transfer.finite_rows import mean_row
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse

LARGEST_SEED = 2**53
"""Larger numbers would not survive every reader of JSON."""


class Distribution(Enum):
    """What rows are drawn from."""

    COVARIANCE = "covariance"
    """A normal distribution with the mean and the covariance matrix of the old rows."""
    COLUMNS = "columns"
    """Independent normal distributions, each with the mean and the variance of one column of the old rows."""
    ZERO = "zero"
    """No distribution: all numbers are 0."""


@dataclass(frozen=True)
class DrawnRows:
    """N new rows, drawn for each matrix that a plan is applied to."""

    new_ids: Tensor
    """int64 [N]: the new rows."""
    base_ids: Tensor
    """int64 [C]: the old rows that mean and variance are computed of."""
    distribution: Distribution
    seed: int = 0
    scale: float = 1.0
    """Factor of the variance. The mean is not scaled."""

    @classmethod
    def of(
        cls, new_ids: np.ndarray, base_ids: Tensor, distribution: Distribution, seed: int = 0, *, scale: float = 1.0
    ) -> DrawnRows:
        """Return the rows for some new tokens, int64 [N]. The old rows are taken by ascending id."""
        return cls(torch.from_numpy(new_ids), base_ids.cpu().sort().values, distribution, seed, scale)

    def __len__(self) -> int:
        return len(self.new_ids)

    def rows(self, matrix_VD: Tensor, use: MatrixUse) -> Iterator[tuple[slice, Tensor]]:
        """Draw the rows one chunk at a time.

        The random numbers depend on the seed, on `use`, and on the number of new rows and of columns. They are drawn on
        the CPU, so that they are the same on every device.

        Args:
            matrix_VD: the old matrix, any floating dtype, all finite; not changed.
            use: what the model does with the matrix. Input and output rows are drawn independently.

        Yields:
            The places of a chunk among the N new rows, and these rows, float32 [chunk, D], on the matrix' device.
        """
        mean_D, factor_DD = self._fit(matrix_VD)
        generator = torch.Generator().manual_seed(_seed_of(self.seed, use))
        for start in range(0, len(self), CHUNK_ROWS):
            places = slice(start, min(start + CHUNK_ROWS, len(self)))
            standard = torch.randn(places.stop - start, matrix_VD.shape[1], generator=generator).to(mean_D.device)
            deviations = standard * factor_DD if factor_DD.dim() == 1 else standard @ factor_DD
            yield places, mean_D + deviations

    def _fit(self, matrix_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean, float32 [D], and what turns standard normal numbers into deviations from it.

        The second is float32 [D], a factor for each column, or [D, D], the symmetric square root of the covariance.
        """
        zeros = torch.zeros(matrix_VD.shape[1], device=matrix_VD.device)
        if self.distribution is Distribution.ZERO:
            return zeros, zeros
        base_ids = self.base_ids.to(matrix_VD.device)
        mean_D = mean_row(matrix_VD, base_ids)
        if self.distribution is Distribution.COLUMNS:
            sums_D = zeros.double()
            for centred in _centred(matrix_VD, base_ids, mean_D):
                sums_D += centred.square().sum(0)
            return mean_D, (self.scale * sums_D / len(base_ids)).sqrt().float()
        sums_DD = torch.zeros(len(zeros), len(zeros), dtype=torch.float64, device=matrix_VD.device)
        for centred in _centred(matrix_VD, base_ids, mean_D):
            sums_DD += centred.T @ centred
        with one_thread():
            values_D, vectors_DD = torch.linalg.eigh(self.scale * sums_DD / len(base_ids))
        # Rounding can make an eigenvalue of a singular covariance slightly negative. Unlike the Cholesky factor, this
        # root exists then, and it does not depend on the signs of the eigenvectors.
        root_DD = (vectors_DD * values_D.clamp(min=0).sqrt()) @ vectors_DD.T
        return mean_D, root_DD.float()


def _centred(matrix_VD: Tensor, ids: Tensor, mean_D: Tensor) -> Iterator[Tensor]:
    """Yield some rows of a matrix minus their mean, float64, a chunk at a time."""
    for some in ids.split(CHUNK_ROWS):  # type: ignore[no-untyped-call]
        yield matrix_VD.index_select(0, some).double() - mean_D.double()


def _seed_of(seed: int, use: MatrixUse) -> int:
    """Return a seed for one kind of matrix, so that input and output rows are not drawn alike."""
    digest = hashlib.blake2b(f"{seed} {use.value}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
