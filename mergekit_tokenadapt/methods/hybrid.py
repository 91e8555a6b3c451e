"""TokenAdapt's method: a weighted average of the local and global estimates (arXiv 2505.09738, 3.4)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from mergekit_tokenadapt.methods.local import Local
from mergekit_tokenadapt.methods.nearest import Global
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.method import LEAST_TEMPERATURE, OF_TOKENS, Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class Hybrid(Method):
    """``(1 - global_weight) * local + global_weight * global``. If one estimate is empty, the other is taken alone."""

    summary: ClassVar[str] = "weighted average of the local and global estimates: the paper's method"
    source: ClassVar[str] = "TokenAdapt, arXiv 2505.09738, section 3.4"
    needs_auxiliary: ClassVar[bool] = True

    temperature: float = Field(
        default=0.3,
        ge=LEAST_TEMPERATURE,
        description="for both estimates; below 1 sharpens the weights, above 1 flattens them",
    )
    top_k: Annotated[int, OF_TOKENS] = Field(default=3, ge=1, description="neighbours of a new token")
    global_weight: float = Field(default=0.3, ge=0, le=1, description="share of the global estimate")
    threshold: float = Field(default=0.0, ge=-1, le=1, description="least cosine similarity of a neighbour")

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weighted average of the local and the global weights."""
        local = Local(temperature=self.temperature).weigh(transfer)
        nearest = Global(temperature=self.temperature, top_k=self.top_k, threshold=self.threshold).weigh(transfer)
        return local.plus(nearest, self.global_weight)
