"""Weights of the base tokens into which a new token's text is segmented."""

from __future__ import annotations

import torch

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.segmentation import Pieces


def uniform(pieces: Pieces) -> SparseRows:
    """Return equal weights for the pieces of each text; they add up to 1."""
    rows = torch.from_numpy(pieces.rows)
    weights = 1 / torch.from_numpy(pieces.counts).float()[rows]
    return SparseRows.from_triplets(rows, torch.from_numpy(pieces.ids), weights, len(pieces))
