"""TokenAdapt's global estimate: the nearest old tokens (arXiv 2505.09738, 3.3)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import LEAST_TEMPERATURE, OF_TOKENS, Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class Global(Method):
    """Weigh the `top_k` old tokens nearest to a new one in the auxiliary space.

    a_i is the cosine similarity of old token i:

    ``a_i = phi . phi_i``; ``w = softmax(a / temperature)``; row = ``sum_i w_i E[i]``.
    Neighbours with ``a_i < threshold`` are left out, and the remaining weights are renormalised.
    """

    summary: ClassVar[str] = "weighted mean of the rows of the nearest old tokens in the auxiliary space"
    source: ClassVar[str] = "TokenAdapt, arXiv 2505.09738, section 3.3"
    needs_auxiliary: ClassVar[bool] = True

    temperature: float = Field(
        default=0.3, ge=LEAST_TEMPERATURE, description="below 1 sharpens the weights, above 1 flattens them"
    )
    top_k: Annotated[int, OF_TOKENS] = Field(default=3, ge=1, description="neighbours of a new token")
    threshold: float = Field(default=0.0, ge=-1, le=1, description="least cosine similarity of a neighbour")

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights w of the neighbours. A token without neighbours above the threshold gets none."""
        similarities_NK, ids_NK = transfer.neighbours(self.top_k)
        kept_NK = similarities_NK >= self.threshold
        weights_NK = torch.where(kept_NK, similarities_NK / self.temperature, -torch.inf).softmax(dim=1)
        rows = torch.arange(len(ids_NK), device=ids_NK.device)[:, None].expand_as(ids_NK)
        return SparseRows.from_triplets(rows[kept_NK], ids_NK[kept_NK], weights_NK[kept_NK], len(ids_NK))
