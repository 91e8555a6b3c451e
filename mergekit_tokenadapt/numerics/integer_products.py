"""Whether matrix products of 8-bit integers are of use on this machine: they must be exact, and faster than float32."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.threads import one_thread

LOG = logging.getLogger(__name__)

ROWS, COLUMNS, WIDTH = 64, 1024, 512
"""Shape of the product that is timed. It takes under 2 milliseconds where it is fast, and about 30 where not."""
TIMES = 3
"""The product is computed so often. The shortest time counts, because other work on the machine only adds time."""


@cache
def integer_products_pay() -> bool:
    """Return whether torch has 8-bit products here that are exact and faster than products in float32.

    Without instructions for them (AVX-512 VNNI, AVX-VNNI, AMX), torch computes them one number at a time: an AMD EPYC
    with AVX2 took twenty times as long for them as for float32. On some older processors the sum of two products
    overflows 16 bits.
    """
    try:
        return _are_exact() and _are_faster()
    except (AttributeError, RuntimeError) as error:
        LOG.debug("torch has no 8-bit products on this machine: %s", error)
        return False


def _are_exact() -> bool:
    signs = torch.tensor([1, -1], dtype=torch.int8).repeat(64)
    rows = torch.stack([signs, signs.abs(), -signs.abs(), signs.roll(1)]).repeat(8, 1) * 127
    return torch.equal(torch._int_mm(rows, rows.T.contiguous()).long(), rows.long() @ rows.long().T)


def _are_faster() -> bool:
    left, right = torch.ones(ROWS, WIDTH), torch.ones(COLUMNS, WIDTH)
    small_left, small_right = left.to(torch.int8), right.to(torch.int8)
    with one_thread():
        return _seconds(lambda: torch._int_mm(small_left, small_right.T)) < _seconds(lambda: left @ right.T)


def _seconds(product: Callable[[], Tensor]) -> float:
    """Return the shortest processor time of a product, in seconds."""
    product()  # The first one prepares.
    found = []
    for _ in range(TIMES):
        started = time.thread_time()
        product()
        found.append(time.thread_time() - started)
    return min(found)
