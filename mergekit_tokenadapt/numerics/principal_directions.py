"""Leading principal directions of a matrix: fewer columns where it is wide."""

from __future__ import annotations

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.threads import one_thread

MAX_DIRECTIONS = 768
"""Columns are made from at most so many principal directions of the matrix: bounds time and memory."""


def along_principal_directions(matrix_VD: Tensor) -> Tensor:
    """[V, P]: the matrix itself where it is narrow, else its coordinates along the leading directions."""
    return along(matrix_VD, principal_directions(matrix_VD))


def principal_directions(matrix_VD: Tensor) -> Tensor | None:
    """The `MAX_DIRECTIONS` leading ones, float32 [D, P]; None where the matrix is no wider."""
    if matrix_VD.shape[1] <= MAX_DIRECTIONS:
        return None
    vectors_DD: Tensor
    gram_DD = matrix_VD.T @ matrix_VD
    with one_thread():
        _, vectors_DD = torch.linalg.eigh(gram_DD)
    return vectors_DD[:, -MAX_DIRECTIONS:].clone()  # without the others, which would stay in memory


def along(matrix_VD: Tensor, directions_DP: Tensor | None) -> Tensor:
    """Return the coordinates of rows along some directions, float32 [V, P]; the rows themselves for None."""
    return matrix_VD if directions_DP is None else matrix_VD @ directions_DP
