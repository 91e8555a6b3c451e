"""The mean of many rows."""

from __future__ import annotations

import pytest
import torch
from small_plans import random_tensor

from mergekit_tokenadapt.transfer.finite_rows import mean_row


def test_the_mean_is_exact_for_wide_ranges() -> None:
    """Summed in float32, the small values would be lost; in float16 they would overflow."""
    matrix = torch.tensor([[6e4, 1e8], [6e4, 1.0], [6e4, -1e8]]).to(torch.float32)
    for block in (1, 65536):
        assert mean_row(matrix, torch.arange(3), block=block).tolist() == pytest.approx([6e4, 1 / 3])
    assert mean_row(matrix[:, :1].half(), torch.arange(3)).isfinite().all()


def test_the_mean_in_blocks_is_the_mean() -> None:
    matrix = random_tensor(50, 3)
    ids = torch.arange(0, 50, 3)
    torch.testing.assert_close(mean_row(matrix, ids, block=4), matrix[ids].mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("columns", [1, 3, 64])
def test_the_mean_row_does_not_depend_on_its_blocks(dtype: torch.dtype, columns: int) -> None:
    matrix = torch.randn(3000, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix[7] = torch.nan
    ids = torch.arange(0, 3000, 2)  # without row 7
    assert torch.equal(mean_row(matrix, ids, columns=columns), mean_row(matrix, ids, columns=70))
    expected = matrix[ids].double().mean(0)
    torch.testing.assert_close(mean_row(matrix, ids, columns=columns).double(), expected, rtol=1e-5, atol=1e-7)
