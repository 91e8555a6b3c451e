"""Gradients of the loss of a correction, written into buffers that all batches share.

The logits of one batch are 1,024 x 40,960 numbers, and automatic differentiation keeps several tensors of that size.
The C library returns such tensors to the operating system when they are freed. Every batch then had to get new pages,
and this took longer than the arithmetic. Here the tensors are made once.

The loss of a position is the cross-entropy between its target distribution t and the model's distribution p. Its
gradient with respect to the logits is p - t.

Letters: B positions in a batch, A active tokens, N resting tokens, D width, O origins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows


class Gradients:
    """Computes the gradients of the mean loss of a batch with respect to the maps and the shifts.

    Args:
        active_OAD: float32 rows of the active tokens, by origin.
        resting_OND: float32 rows of the resting tokens, by origin.
        resting_weight: logarithm of the number of tokens that each resting token stands for.
        batch: largest number of positions in a batch.
        dtype: dtype of the matrix products. Sums and probabilities are float32.
    """

    def __init__(
        self,
        active_OAD: Sequence[Tensor],
        resting_OND: Sequence[Tensor],
        resting_weight: float,
        *,
        batch: int,
        dtype: torch.dtype,
    ) -> None:
        self._dtype, self._resting_weight = dtype, resting_weight
        self._active_OAD = [rows.to(dtype) for rows in active_OAD]
        self._resting_OND = [rows.to(dtype) for rows in resting_OND]
        self._shifts_OAD = [torch.empty_like(rows) for rows in self._active_OAD]
        self._products_OBA = [rows.new_empty((batch, len(rows))) for rows in self._active_OAD]
        self._active_OBA = [rows.new_empty((batch, len(rows)), dtype=torch.float32) for rows in self._active_OAD]
        starts = [0, *accumulate(len(rows) for rows in active_OAD)]
        self._parts = [slice(first, last) for first, last in pairwise(starts)]

    def write(self, states_BD: Tensor, wanted: SparseRows, maps_ODD: Tensor, shifts_AD: Tensor) -> None:
        """Write the gradients of the mean loss of a batch into ``maps_ODD.grad`` and ``shifts_AD.grad``.

        Args:
            states_BD: float32; hidden states.
            wanted: the B target distributions over places among the active tokens; each adds up to 1.
            maps_ODD: float32, with ``grad``.
            shifts_AD: float32, with ``grad``.
        """
        assert maps_ODD.grad is not None
        assert shifts_AD.grad is not None
        size = len(states_BD)
        halves_BD = states_BD.to(self._dtype)
        mapped_OBD = [(states_BD + states_BD @ map_DD).to(self._dtype) for map_DD in maps_ODD]
        active_OBA = [buffer[:size] for buffer in self._active_OBA]
        products_OBA = [buffer[:size] for buffer in self._products_OBA]
        for origin, part in enumerate(self._parts):
            shifts, product, logits = self._shifts_OAD[origin], products_OBA[origin], active_OBA[origin]
            logits.copy_(torch.mm(mapped_OBD[origin], self._active_OAD[origin].T, out=product))
            logits.add_(torch.mm(halves_BD, shifts.copy_(shifts_AD[part]).T, out=product))
        resting_OBN = [(m @ rows.T).float() for m, rows in zip(mapped_OBD, self._resting_OND, strict=True)]
        _normalise([*active_OBA, *resting_OBN], [0.0] * len(active_OBA) + [self._resting_weight] * len(resting_OBN))
        _subtract(active_OBA, self._parts, wanted)
        for origin, part in enumerate(self._parts):
            gradient, shifts = products_OBA[origin].copy_(active_OBA[origin]), self._shifts_OAD[origin]
            # The shifts have been used, so that their buffer can take their gradient.
            shifts_AD.grad[part].copy_(torch.mm(gradient.T, halves_BD, out=shifts)).div_(size)
            of_mapped_BD = (gradient @ self._active_OAD[origin]).float()
            of_mapped_BD += (resting_OBN[origin].to(self._dtype) @ self._resting_OND[origin]).float()
            torch.mm(states_BD.T, of_mapped_BD, out=maps_ODD.grad[origin]).div_(size)


def _normalise(logits: Sequence[Tensor], log_weights: Sequence[float]) -> None:
    """Turn logits of several groups of tokens into probabilities, in place. A token counts with its group's weight."""
    groups = [(group, weight) for group, weight in zip(logits, log_weights, strict=True) if group.shape[1]]
    largest_B1 = torch.stack([group.amax(1, keepdim=True) + weight for group, weight in groups]).amax(0)
    total_B1 = torch.zeros_like(largest_B1)
    for group, weight in groups:
        group.sub_(largest_B1 - weight).exp_()
        total_B1 += group.sum(1, keepdim=True)
    for group, _ in groups:
        group.div_(total_B1)


def _subtract(active_OBA: Sequence[Tensor], parts: Sequence[slice], wanted: SparseRows) -> None:
    """Subtract the target distributions from the probabilities, in place."""
    for probabilities_BA, part in zip(active_OBA, parts, strict=True):
        inside = (wanted.ids >= part.start) & (wanted.ids < part.stop)
        device = probabilities_BA.device
        places = (wanted.rows[inside].to(device), (wanted.ids[inside] - part.start).to(device))
        probabilities_BA.index_put_(places, -wanted.weights[inside].to(probabilities_BA), accumulate=True)
