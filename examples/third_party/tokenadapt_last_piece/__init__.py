"""A method and an auxiliary space, as another package would add them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mergekit_tokenadapt import AuxiliarySpace, Method, SparseRows, Transfer


class LastPiece(Method):
    """The row of the last piece, plus a share of the nearest old token's."""

    summary: ClassVar[str] = "the last old piece, and a little of the nearest old token"
    source: ClassVar[str] = "an example"
    needs_auxiliary: ClassVar[bool] = True

    share: float = Field(default=0.1, ge=0, le=1, description="share of the nearest old token")

    def weigh(self, transfer: Transfer) -> SparseRows:
        """One weight for the last piece, one for the nearest token."""
        has_pieces = torch.from_numpy(transfer.pieces.counts) > 0
        rows = has_pieces.nonzero().flatten()
        last = torch.from_numpy(transfer.pieces.ids[transfer.pieces.indptr[1:][has_pieces.numpy()] - 1])
        num_new = len(has_pieces)
        pieces = SparseRows.from_triplets(rows, last, torch.ones(len(rows)), num_new)
        _, nearest = transfer.neighbours(1)
        neighbours = SparseRows.from_triplets(torch.arange(num_new), nearest[:, 0].cpu(), torch.ones(num_new), num_new)
        return pieces.plus(neighbours, self.share)


class ByteCounts(AuxiliarySpace):
    """``auxiliary: byte-counts``: how often each byte value occurs in the text."""

    @classmethod
    def from_argument(cls, argument: str | None) -> ByteCounts:
        """No argument."""
        return cls()

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """256 counts for each text."""
        return torch.stack(
            [torch.bincount(torch.tensor(list(text.encode()), dtype=torch.int64), minlength=256) for text in texts]
        ).float()
