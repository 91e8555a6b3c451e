"""Gradients in shared buffers are those of automatic differentiation."""

import math

import pytest
import torch

from mergekit_tokenadapt.correction.gradients import Gradients
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows

BATCH, WIDTH = 6, 8


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def loss(states, wanted, maps, shifts, active, resting, weight):
    """The mean cross-entropy, as the regression defines it."""
    mapped = [states + states @ one for one in maps]
    logits = torch.cat([m @ rows.T for m, rows in zip(mapped, active, strict=True)], dim=1) + states @ shifts.T
    others = torch.cat([m @ rows.T for m, rows in zip(mapped, resting, strict=True)], dim=1) + weight
    log_total = torch.cat([logits, others], dim=1).logsumexp(dim=1, keepdim=True)
    return -(wanted * (logits - log_total)).sum() / len(states)


@pytest.mark.parametrize("sizes", [(5, 4, 3, 2), (7, 2, 0, 3), (0, 6, 2, 0), (5, 4, 0, 0)], ids=str)
def test_gradients_are_those_of_automatic_differentiation(sizes):
    copied, composed, *others = sizes
    active, resting = [random(n, WIDTH) for n in (copied, composed)], [random(n, WIDTH) for n in others]
    maps, shifts = 0.1 * random(2, WIDTH, WIDTH), 0.1 * random(copied + composed, WIDTH)
    gradients = Gradients(active, resting, math.log(3), batch=BATCH, dtype=torch.float32)
    for size in (BATCH, BATCH - 2):  # a smaller batch finds the buffers as a larger one left them
        states, wanted = random(size, WIDTH), random(size, copied + composed).softmax(1)
        rows, ids = wanted.nonzero(as_tuple=True)
        targets = SparseRows.from_triplets(rows, ids, wanted[rows, ids], size)
        given = [tensor.clone().requires_grad_() for tensor in (maps, shifts)]
        loss(states, wanted, *given, active, resting, math.log(3)).backward()
        for tensor in (maps, shifts):
            tensor.grad = torch.full_like(tensor, torch.nan)
        gradients.write(states, targets, maps, shifts)
        torch.testing.assert_close(maps.grad, given[0].grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(shifts.grad, given[1].grad, rtol=1e-4, atol=1e-6)
