"""Small functions of tensors: the lengths of rows, and how two tensors differ."""

from __future__ import annotations

import torch
from torch import Tensor


def row_norms(matrix_RD: Tensor, *, block: int = 16384) -> Tensor:
    """Return the Euclidean length of every row, float32 [R].

    Args:
        matrix_RD: [R, ...], any floating dtype; axes after the first count as one. Not changed.
        block: rows converted to float32 at a time, so that no float32 copy of the whole matrix is needed.
    """
    return torch.cat([rows.float().flatten(1).norm(dim=1) for rows in torch.split(matrix_RD, block)])


def difference_of(first: Tensor, second: Tensor) -> str | None:
    """Describe how `second` differs from `first` (the base model's tensor); return None if all bits are equal."""
    if first.dtype != second.dtype:
        return f"is {second.dtype} where the base has {first.dtype}".replace("torch.", "")
    if first.shape != second.shape:
        return f"has the shape {tuple(second.shape)} where the base has {tuple(first.shape)}"
    # As bits, NaN equals itself, and -0.0 differs from 0.0.
    same = first.contiguous().view(torch.uint8) == second.contiguous().view(torch.uint8)
    return None if bool(same.all()) else f"differs in {int((first != second).sum()):,} of {first.numel():,} numbers"
