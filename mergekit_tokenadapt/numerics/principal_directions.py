"""Reduce a wide matrix to its coordinates along its leading principal directions.

Letters: V rows, D columns, P directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.threads import one_thread

MAX_DIRECTIONS = 768
"""Largest number of columns after the reduction. It bounds time and memory of what follows."""


def along_principal_directions(matrix_VD: Tensor) -> Tensor:
    """Return coordinates along the leading directions, [V, P], or the matrix itself if it has few columns."""
    return along(matrix_VD, principal_directions(matrix_VD))


def principal_directions(matrix_VD: Tensor) -> Tensor | None:
    """Return the `MAX_DIRECTIONS` leading right singular vectors, float32 [D, P]; None if D is not larger than that.

    The matrix is not centred: it has the eigenvectors of ``matrix.T @ matrix``.

    Args:
        matrix_VD: float32 [V, D]; not changed.
    """
    if matrix_VD.shape[1] <= MAX_DIRECTIONS:
        return None
    vectors_DD: Tensor
    gram_DD = matrix_VD.T @ matrix_VD
    with one_thread():
        _, vectors_DD = torch.linalg.eigh(gram_DD)
    # `eigh` sorts by ascending eigenvalue. The copy lets the memory of the other directions go.
    return vectors_DD[:, -MAX_DIRECTIONS:].clone()


def along(matrix_VD: Tensor, directions_DP: Tensor | None) -> Tensor:
    """Return the coordinates of rows along directions, float32 [V, P]. Without directions, return the rows."""
    return matrix_VD if directions_DP is None else matrix_VD @ directions_DP
