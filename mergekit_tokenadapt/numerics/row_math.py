"""Small questions about tensors that several rooms ask."""

from __future__ import annotations

import torch
from torch import Tensor


def row_norms(matrix_RD: Tensor, *, block: int = 16384) -> Tensor:
    """Euclidean length of every row, float32 [R]."""
    return torch.cat([rows.float().flatten(1).norm(dim=1) for rows in torch.split(matrix_RD, block)])


def difference_of(first: Tensor, second: Tensor) -> str | None:
    """How two tensors differ, in words; None where all bits are the same."""
    if first.dtype != second.dtype:
        return f"is {second.dtype} where the base has {first.dtype}".replace("torch.", "")
    if first.shape != second.shape:
        return f"has the shape {tuple(second.shape)} where the base has {tuple(first.shape)}"
    # Compared as bits: NaN equals itself, and -0.0 is not 0.0.
    same = first.contiguous().view(torch.uint8) == second.contiguous().view(torch.uint8)
    return None if bool(same.all()) else f"differs in {int((first != second).sum()):,} of {first.numel():,} numbers"
