"""Log-probabilities of the tokens that follow, without the logits of all positions in memory at once.

The gradient needs the logits again: the backward pass computes them a second time, chunk by chunk. Rows that are not
trained are represented by a sample, as in `loss`.

Letters: P positions, A trained rows, N sampled rows, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.healing.loss import CHUNK


def log_probabilities(
    states_PD: Tensor, rows_AD: Tensor, others_ND: Tensor, *, num_others: int, columns: Tensor, boundary: Tensor
) -> tuple[Tensor, Tensor]:
    """For each position: the log-probability of one token, and that of all boundary tokens together.

    Args:
        states_PD: hidden states, any floating dtype.
        rows_AD: output rows that are trained.
        others_ND: a random sample of the other output rows; no gradient.
        num_others: how many other output rows there are.
        columns: int64 [P]: a row of `rows_AD` for each position.
        boundary: bool [A + N].

    Returns:
        float32 [P] each.
    """
    of_tokens, of_boundary = _LogProbabilities.apply(  # type: ignore[no-untyped-call]
        states_PD, rows_AD, others_ND, num_others, columns, boundary
    )
    return of_tokens, of_boundary


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        states_PD: Tensor,
        rows_AD: Tensor,
        others_ND: Tensor,
        num_others: int,
        columns: Tensor,
        boundary: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # Where autocast is on, products are computed in its dtype.
        device = states_PD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        matrix = torch.cat([rows_AD.detach(), others_ND.to(rows_AD.dtype)]).to(dtype)
        states = states_PD.detach().to(dtype)
        offset = math.log(num_others / len(others_ND)) if len(others_ND) else 0.0
        of_tokens, of_boundary = [], []
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), CHUNK):
                logs = _logs(states[start : start + CHUNK], matrix, offset, len(rows_AD))
                of_tokens.append(logs.gather(1, columns[start : start + CHUNK, None])[:, 0])
                of_boundary.append(logs[:, boundary].logsumexp(1))
        context.save_for_backward(states, matrix, columns, boundary)
        context.offset, context.num_trained = offset, len(rows_AD)
        context.dtypes = states_PD.dtype, rows_AD.dtype
        return torch.cat(of_tokens), torch.cat(of_boundary)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, matrix, columns, boundary = context.saved_tensors
        of_tokens, of_boundary = gradients
        num_trained = context.num_trained
        states_grad = torch.zeros(states.shape, device=states.device)
        rows_grad = torch.zeros(num_trained, matrix.shape[1], device=states.device)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), CHUNK):
                part = slice(start, start + CHUNK)
                probabilities = _logs(states[part], matrix, context.offset, num_trained).exp_()
                # d log p(token) = [token] - p, and d log p(boundary) = p [boundary] / p(boundary) - p
                of_both = of_tokens[part] + of_boundary[part]
                mass = probabilities[:, boundary].sum(1, keepdim=True).clamp_min(1e-30)
                gradient = probabilities * (boundary * (of_boundary[part, None] / mass) - of_both[:, None])
                gradient[torch.arange(len(gradient), device=states.device), columns[part]] += of_tokens[part]
                gradient = gradient.to(matrix.dtype)
                states_grad[part] = (gradient @ matrix).float()
                rows_grad += (gradient[:, :num_trained].T @ states[part]).float()
        states_dtype, rows_dtype = context.dtypes
        return states_grad.to(states_dtype), rows_grad.to(rows_dtype), None, None, None, None


def _logs(states: Tensor, matrix: Tensor, offset: float, num_trained: int) -> Tensor:
    logits = (states @ matrix.T).float()
    logits[:, num_trained:] += offset
    return logits.log_softmax(1)
