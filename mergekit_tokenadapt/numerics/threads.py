"""The same numbers, however many threads there are.

Products of matrices come out the same for any number of threads: each is a sum in a fixed order. Decompositions
(LAPACK's) and sums over a whole tensor cut their work by the number of threads, and round accordingly. They are small
beside the products: one thread is enough for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, numpy and scipy decompose matrices with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def total(matrix: Tensor) -> Tensor:
    """The sum of all entries, columns first: torch's own sum depends on the number of threads."""
    return matrix.sum(0).sum()
