"""Rows that hold NaN or infinite numbers: kept out of sums, and refused where they were made.

Letters: V old rows, R new rows, D width of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import CHUNK_ROWS


class NotFiniteError(TokenAdaptError):
    """New rows hold NaN or infinite numbers.

    Args:
        tensor: name of the tensor; empty where it has none.
        rows: int64; the rows, ascending.
        reason: the likely cause.
        token: the first row's token, to be named in the message in place of its number.
    """

    def __init__(self, tensor: str, rows: Tensor, reason: str, token: str | None = None) -> None:
        self.tensor, self.rows, self.reason = tensor, rows, reason
        first = f"row {int(rows[0])}" if token is None else f"that of the token {token!r}"
        super().__init__(
            f"{tensor or 'the matrix'}: {len(rows)} of the new rows would hold NaN or infinite numbers, {first} for "
            f"one: {reason}"
        )

    def with_token(self, token: str) -> NotFiniteError:
        """Return the same error with the first row's token in place of its number."""
        return NotFiniteError(self.tensor, self.rows, self.reason, token)


def check_finite(new_RD: Tensor, ids: Tensor, name: str, old_VD: Tensor | None = None) -> None:
    """Refuse new rows that hold NaN or infinite numbers.

    Args:
        new_RD: the new rows.
        ids: int64; the rows to check, ascending.
        name: name of the tensor, for the message.
        old_VD: the old rows, to name the likely cause.

    Raises:
        NotFiniteError: there are such rows.
    """
    chunks = ids.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
    bad = ids[~torch.cat([finite_rows(new_RD[some.to(new_RD.device)].flatten(1)).cpu() for some in chunks])]
    if len(bad):
        raise NotFiniteError(name, bad, _why_not_finite(new_RD.dtype, old_VD))


def _why_not_finite(dtype: torch.dtype, old_VD: Tensor | None) -> str:
    """Return the likely cause of rows that are not finite. The weights of the compositions are known to be finite."""
    name = str(dtype).removeprefix("torch.")
    parts = () if old_VD is None else old_VD.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
    largest = max((float(part.abs().max()) for part in parts), default=0.0)
    if largest > 1e4:
        return f"the old rows hold numbers of up to {largest:.2g}, whose sums overflow; is the tensor damaged?"
    return f"the sums overflow {name}; the method's options may be out of reach, or give a wider dtype"


def finite_rows(matrix_VD: Tensor) -> Tensor:
    """Return which rows hold finite numbers only, bool [V]."""
    parts = matrix_VD.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
    return torch.cat([part.isfinite().all(dim=1) for part in parts])


def without_bad_rows(matrix_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix with the mean row in place of rows that are not finite, and which are finite, bool [V].

    Without such rows the matrix itself is returned, not a copy.
    """
    is_finite = finite_rows(matrix_VD)
    if is_finite.all():
        return matrix_VD, is_finite
    mean = mean_row(matrix_VD, torch.arange(len(matrix_VD), device=matrix_VD.device))
    return torch.where(is_finite[:, None], matrix_VD, mean.to(matrix_VD.dtype)), is_finite


def mean_row(matrix_VD: Tensor, ids: Tensor, *, block: int = 8192, columns: int = 128) -> Tensor:
    """Return the mean of some rows, float32 [D]. Rows with NaN or infinite numbers are left out.

    The sum is computed in float64, because 16-bit sums of many rows overflow or lose the small ones.

    Args:
        matrix_VD: any floating dtype.
        ids: int64; the rows to average.
        block: rows that are copied at a time.
        columns: columns that are copied at a time.
    """
    total = torch.zeros(matrix_VD.shape[1], dtype=torch.float64, device=matrix_VD.device)
    is_finite, num_finite = finite_rows(matrix_VD), 0
    for start in range(0, len(ids), block):
        some = ids[start : start + block]
        some = some[is_finite[some]]
        num_finite += len(some)
        for left in range(0, matrix_VD.shape[1], columns):
            part = matrix_VD[:, left : left + columns].index_select(0, some)
            total[left : left + columns] += part.sum(0, dtype=torch.float64)
    return (total / max(1, num_finite)).float()
