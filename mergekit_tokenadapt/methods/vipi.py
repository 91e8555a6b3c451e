"""VIPI: the average over all minimal segmentations (arXiv 2112.14569)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.minimal_segmentations import MinimalSegmentations
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class Vipi(Method):
    """Vocabulary Initialization with Partial Inheritance: average the rows of all minimal segmentations of a token.

    P is the set of segmentations of the token's bytes into the fewest old tokens; among these, only the ones with the
    longest piece are kept. Row = ``mean over p in P of mean over t in p of E[t]``.
    """

    summary: ClassVar[str] = "mean over all segmentations into the fewest old tokens, not only the base tokenizer's own"
    source: ClassVar[str] = "VIPI: Mosin et al., Fine-Tuning Transformers: Vocabulary Transfer, arXiv 2112.14569"

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return each old token's share of the pieces of all minimal segmentations."""
        segmentations = MinimalSegmentations(transfer.base.vocabulary, transfer.base_rows)
        found = [segmentations.shares(token.bytes) for token in transfer.new_tokens]
        rows = torch.tensor([n for n, shares in enumerate(found) for _ in shares], dtype=torch.int64)
        ids = torch.tensor([i for shares in found for i in shares], dtype=torch.int64)
        weights = torch.tensor([share for shares in found for share in shares.values()])
        return SparseRows.from_triplets(rows, ids, weights, len(found))
