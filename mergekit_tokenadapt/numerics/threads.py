"""Make results independent of the number of threads.

Matrix products give the same bits for any number of threads, because each entry is a sum in a fixed order.
Decompositions (LAPACK) and sums over a whole tensor divide their work by the number of threads, so their rounding
depends on it. They take little time beside the products, and therefore run on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")


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


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part], num_threads: int) -> list[Result]:
    """Call a function for each part, several at a time, each with one of torch's threads.

    Threads of their own wait for each other once, at the end. Torch's threads do so after each operation.

    Args:
        function: may be called in several threads at once.
        parts: what it is called for.
        num_threads: how many threads, at most.
    """
    num_threads = min(num_threads, len(parts))
    if num_threads < 2:
        return [function(part) for part in parts]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that start from here on take this over
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(before)


def total(matrix: Tensor) -> Tensor:
    """Return the sum of all entries, shape [], computed column by column.

    ``matrix.sum()`` rounds differently with another number of threads.
    """
    return matrix.sum(0).sum()
