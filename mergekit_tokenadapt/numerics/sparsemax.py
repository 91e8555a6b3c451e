"""Sparsemax: the nearest point of the probability simplex (Martins and Astudillo, arXiv 1602.02068).

Letters: N rows, S scores of a row, K largest scores of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_LARGEST = 256
"""Largest scores of each row that are sorted at first. More are sorted where they do not suffice."""


def sparsemax(scores_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of each row that are not zero, and their places, largest first.

    The weights are ``max(0, z - tau)`` with the threshold tau at which they add up to 1.

    Args:
        scores_NS: float32 [N, S], S at least 1.

    Returns:
        Weights, float32 [N, K], and places among the S scores, int64 [N, K]. Weights after the last are 0.
    """
    num_scores = scores_NS.shape[1]
    size = min(FIRST_LARGEST, num_scores)
    while True:
        values_NK, places_NK = scores_NS.topk(size, dim=1)
        sums_NK = values_NK.double().cumsum(dim=1)
        numbers_K = torch.arange(1, size + 1, device=values_NK.device)
        # The support is a first part of the sorted scores: those z_k with 1 + k z_k > z_1 + ... + z_k.
        support_N = (1 + numbers_K * values_NK.double() > sums_NK).sum(dim=1)
        if size == num_scores or int(support_N.max()) < size:
            break
        size = min(4 * size, num_scores)
    threshold_N1 = (sums_NK.gather(1, support_N[:, None] - 1) - 1) / support_N[:, None]
    weights_NK = (values_NK.double() - threshold_N1).clamp(min=0).float()
    largest = int(support_N.max())
    return weights_NK[:, :largest], places_NK[:, :largest]
