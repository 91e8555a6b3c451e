"""TokenAdapt's local estimate: the pieces, weighted by meaning and length (arXiv 2505.09738, 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import LEAST_TEMPERATURE, Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class Local(Method):
    """Weigh the pieces of a new token by similarity and length.

    A new token has the pieces j = 1..m, the unit vector phi, and phi_j is the unit vector of piece j:

    ``a_j = phi . phi_j``; ``u = softmax(a)``; ``l_j = characters(j) / max(1, characters(new))``;
    ``c = (u + l) / 2``; ``w = softmax(c / temperature)``; row = ``sum_j w_j E[j]``.
    """

    summary: ClassVar[str] = "weighted mean of the rows of the old pieces, by similarity of meaning and by length"
    source: ClassVar[str] = "TokenAdapt, arXiv 2505.09738, section 3.2"
    needs_auxiliary: ClassVar[bool] = True

    temperature: float = Field(
        default=0.3, ge=LEAST_TEMPERATURE, description="below 1 sharpens the weights, above 1 flattens them"
    )

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights w of the pieces."""
        pieces, device = transfer.pieces, transfer.device
        rows, ids = torch.from_numpy(pieces.rows).to(device), torch.from_numpy(pieces.ids).to(device)
        num_new = len(pieces)

        new_NA, candidates_CA = transfer.vectors_of(transfer.new_tokens), transfer.vectors_of(transfer.candidates)
        place_of_id = torch.full((transfer.base_rows,), -1, dtype=torch.int64, device=device)
        place_of_id[transfer.candidate_ids] = torch.arange(len(candidates_CA), device=device)
        similarity = _paired_dot(new_NA, rows, candidates_CA, place_of_id[ids])

        lengths = torch.zeros(transfer.base_rows, device=device)
        lengths[transfer.candidate_ids] = torch.tensor(
            [float(t.num_characters) for t in transfer.candidates], device=device
        )
        new_lengths = torch.tensor([float(t.num_characters) for t in transfer.new_tokens], device=device)
        length_share = lengths[ids] / new_lengths.clamp(min=1)[rows]

        closeness = (segment_softmax(similarity, rows, num_new) + length_share) / 2
        weights = segment_softmax(closeness / self.temperature, rows, num_new)
        return SparseRows.from_triplets(rows, ids, weights, num_new)


def segment_softmax(values: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Return the softmax over the values of each segment, float32 [Z].

    Args:
        values: float32 [Z].
        segments: int64 [Z]; the segment of each value.
        num_segments: number of segments; some may be empty.
    """
    # Minus the highest value, so that no exponential overflows at low temperatures.
    highest = values.new_full((num_segments,), -torch.inf).scatter_reduce(0, segments, values, "amax")
    exponentials = (values - highest[segments]).exp()
    sums = values.new_zeros(num_segments).index_add(0, segments, exponentials)
    return exponentials / sums[segments]


def _paired_dot(left: Tensor, left_ids: Tensor, right: Tensor, right_ids: Tensor, *, block: int = 65536) -> Tensor:
    """Return ``left[left_ids[z]] . right[right_ids[z]]`` for every z, float32 [Z], computed in blocks."""
    products = left.new_empty(len(left_ids))
    for start in range(0, len(left_ids), block):
        part = slice(start, start + block)
        products[part] = (left[left_ids[part]] * right[right_ids[part]]).sum(1)
    return products
