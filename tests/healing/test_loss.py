"""The loss and its gradients, against the plain computation."""

import pytest
import torch

from mergekit_tokenadapt.healing import loss as loss_module
from mergekit_tokenadapt.healing.loss import sparse_cross_entropy

POSITIONS, TRAINED, OTHERS, WIDTH, KEPT = 7, 11, 5, 4, 3


def tensors(total):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(POSITIONS, WIDTH, generator=generator, requires_grad=True)
    rows = torch.randn(TRAINED, WIDTH, generator=generator, requires_grad=True)
    others = torch.randn(OTHERS, WIDTH, generator=generator)
    columns = torch.stack([torch.randperm(TRAINED, generator=generator)[:KEPT] for _ in range(POSITIONS)])
    weights = torch.rand(POSITIONS, KEPT, generator=generator)
    return states, rows, others, columns, weights / weights.sum(1, keepdim=True) * total


def plain_loss(states, rows, others, columns, weights, copies=1):
    """By the definition, each other row standing for `copies`."""
    logits = states @ torch.cat([rows, *[others] * copies]).T
    probabilities = logits.softmax(1)
    named = probabilities.gather(1, columns)
    rest = 1 - weights.sum(1)
    return -(weights * named.log()).sum() - (rest * (1 - named.sum(1)).log()).sum()


@pytest.mark.parametrize("total", [1.0, 0.7], ids=["whole", "with-a-rest"])
@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("copies", [1, 3])
def test_loss_and_gradients_are_those_of_the_definition(total, chunk, copies, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    states, rows, others, columns, weights = tensors(total)
    expected = plain_loss(states, rows, others, columns, weights, copies)
    wanted = torch.autograd.grad(expected, (states, rows))
    loss = sparse_cross_entropy(
        states,
        rows,
        others,
        num_others=copies * OTHERS,
        indptr=torch.arange(0, POSITIONS * KEPT + 1, KEPT),
        columns=columns.flatten(),
        weights=weights.flatten(),
    )
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(2 * loss, (states, rows)), wanted, strict=True):
        torch.testing.assert_close(got, 2 * want, rtol=1e-4, atol=1e-5)


def test_without_other_rows():
    states, rows, _, columns, weights = tensors(0.9)
    none = torch.empty(0, WIDTH)
    loss = sparse_cross_entropy(
        states,
        rows,
        none,
        num_others=0,
        indptr=torch.arange(0, POSITIONS * KEPT + 1, KEPT),
        columns=columns.flatten(),
        weights=weights.flatten(),
    )
    torch.testing.assert_close(loss, plain_loss(states, rows, none, columns, weights))
