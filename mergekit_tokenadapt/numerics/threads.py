"""Make results independent of the number of threads.

Matrix products give the same bits for any number of threads, because each entry is a sum in a fixed order.
Decompositions (LAPACK) and sums over a whole tensor divide their work by the number of threads, so their rounding
depends on it. They take little time beside the products, and therefore run on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the ``with`` block, let torch, numpy and scipy use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def total(matrix: Tensor) -> Tensor:
    """Return the sum of all entries, shape [], computed column by column.

    ``matrix.sum()`` rounds differently with another number of threads.
    """
    return matrix.sum(0).sum()
