"""Cross-entropy to sparse targets, without the logits of all positions in memory at once.

The probability that a target leaves out is that of all tokens that it does not name: the loss compares it with what the
model gives these together. So a model is not taught that unlikely tokens are impossible.

Rows that are not trained stand for themselves by a random sample of them, whose share of the partition function is
scaled up (importance sampling). The gradient with respect to the rows that are trained and to the hidden states
is worked out in the forward pass, chunk by chunk, while the logits are there.

Letters: P positions, A trained rows, N sampled rows, D width, Z kept probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Positions whose logits are in memory at a time."""
LEAST_REST = 1e-6
"""The model's probability for all tokens that a target does not name is taken for at least this."""


def target_loss(
    states_PD: Tensor, rows_AD: Tensor, others_ND: Tensor, *, num_others: int, positions: Tensor, **targets: Tensor
) -> Tensor:
    """The mean of `sparse_cross_entropy` over those positions that have a target, in nats."""
    total = sparse_cross_entropy(states_PD[positions], rows_AD, others_ND, num_others=num_others, **targets)
    return total / max(1, len(positions))


def sparse_cross_entropy(
    states_PD: Tensor,
    rows_AD: Tensor,
    others_ND: Tensor,
    *,
    num_others: int,
    indptr: Tensor,
    columns: Tensor,
    weights: Tensor,
) -> Tensor:
    """The sum over all positions of the cross-entropy between targets and predictions, in nats.

    Args:
        states_PD: hidden states, any floating dtype.
        rows_AD: output rows that are trained.
        others_ND: a random sample of the other output rows; no gradient.
        num_others: how many other output rows there are.
        indptr: int64 [P + 1]: which of the kept probabilities belong to each position.
        columns: int64 [Z]: rows of `rows_AD`, each at most once in a position.
        weights: float32 [Z]: positive, at most 1 together in a position.

    Returns:
        float32 scalar.
    """
    loss: Tensor = _SparseCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_PD, rows_AD, others_ND, num_others, indptr, columns, weights
    )
    return loss


class _SparseCrossEntropy(torch.autograd.Function):
    """The loss and its gradients, in one pass over chunks of positions."""

    @staticmethod
    def forward(
        context: Any,
        states_PD: Tensor,
        rows_AD: Tensor,
        others_ND: Tensor,
        num_others: int,
        indptr: Tensor,
        columns: Tensor,
        weights: Tensor,
    ) -> Tensor:
        num_trained = len(rows_AD)
        # Where autocast is on, products are computed in its dtype.
        device = states_PD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        matrix = torch.cat([rows_AD.detach(), others_ND.to(rows_AD.dtype)]).to(dtype)
        offset = math.log(num_others / len(others_ND)) if len(others_ND) else 0.0
        states_grad = torch.zeros_like(states_PD, dtype=torch.float32)
        rows_grad = torch.zeros_like(rows_AD, dtype=torch.float32)
        total = torch.zeros((), dtype=exact_dtype(states_PD.device), device=states_PD.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states_PD), CHUNK):
                states = states_PD[start : start + CHUNK].to(dtype)
                bounds = indptr[start : start + len(states) + 1]
                kept = slice(int(bounds[0]), int(bounds[-1]))
                loss, gradient = _chunk(
                    states @ matrix.T, offset, num_trained, bounds.diff(), columns[kept], weights[kept]
                )
                total += loss
                gradient = gradient.to(dtype)
                states_grad[start : start + len(states)] = (gradient @ matrix).float()
                rows_grad += (gradient[:, :num_trained].T @ states).float()
        context.save_for_backward(states_grad, rows_grad)
        context.dtypes = states_PD.dtype, rows_AD.dtype
        return total.float()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states_grad, rows_grad = context.saved_tensors
        (scale,) = gradients
        states_dtype, rows_dtype = context.dtypes
        return (states_grad * scale).to(states_dtype), (rows_grad * scale).to(rows_dtype), *(None,) * 5


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype to add up many numbers in: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _chunk(
    products: Tensor, offset: float, num_trained: int, counts: Tensor, columns: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of some positions, and its gradient with respect to their logits.

    With the target w on the named tokens S, r = 1 - sum(w), and the model's p: the loss is
    ``-sum(w log p) - r log(1 - p(S))``; its gradient is ``p - w`` in S and ``p (1 - r / (1 - p(S)))`` elsewhere.
    """
    logits = products.float()
    if offset:
        logits[:, num_trained:] += offset
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    probabilities = logits.sub_(normaliser).exp_()
    places = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    chosen = probabilities[places, columns]
    named = torch.zeros(len(counts), device=counts.device).index_add_(0, places, chosen)
    given = torch.zeros_like(named).index_add_(0, places, weights)
    rest = (1 - given).clamp_min(0)
    unnamed = (1 - named).clamp_min(LEAST_REST)
    exact = exact_dtype(counts.device)
    loss = -(weights * chosen.clamp_min(1e-30).log()).to(exact).sum() - (rest * unnamed.log()).to(exact).sum()
    gradient = probabilities.mul_((1 - rest / unnamed)[:, None])
    gradient[places, columns] = chosen * (given + rest)[places] - weights
    return loss, gradient
