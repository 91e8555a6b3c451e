"""Weights of the base tokens into which a new token's text is segmented."""

from __future__ import annotations

import numpy as np
import torch

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.segmentation import Pieces


def uniform(pieces: Pieces) -> SparseRows:
    """Return equal weights for the pieces of each text; they add up to 1."""
    rows = torch.from_numpy(pieces.rows)
    weights = 1 / torch.from_numpy(pieces.counts).float()[rows]
    return SparseRows.from_triplets(rows, torch.from_numpy(pieces.ids), weights, len(pieces))


def proportional(pieces: Pieces, weights: np.ndarray) -> SparseRows:
    """Return weights for the pieces of each text in a given ratio; they add up to 1.

    A piece that occurs several times gets the sum of its weights. Pieces with the weight 0 are left out.

    Args:
        pieces: the pieces of N texts.
        weights: float64 [number of pieces], none negative; for each text with pieces, at least one is positive.
    """
    totals = np.bincount(pieces.rows, weights, minlength=len(pieces))
    shares = weights / totals[pieces.rows]
    used = torch.from_numpy(shares > 0)
    rows, ids, shares_of = (torch.from_numpy(part)[used] for part in (pieces.rows, pieces.ids, shares))
    return SparseRows.from_triplets(rows, ids, shares_of, len(pieces))


def places_from_start(pieces: Pieces) -> np.ndarray:
    """Return the place of each piece in its text, 0 for the first, int64 [number of pieces]."""
    places: np.ndarray = np.arange(len(pieces.ids)) - pieces.indptr[pieces.rows]
    return places


def places_from_end(pieces: Pieces) -> np.ndarray:
    """Return the place of each piece counted from the end, 0 for the last, int64 [number of pieces]."""
    places: np.ndarray = pieces.indptr[pieces.rows + 1] - 1 - np.arange(len(pieces.ids))
    return places


def first(pieces: Pieces) -> SparseRows:
    """Return the weight 1 for the first piece of each text."""
    return proportional(pieces, (places_from_start(pieces) == 0).astype(float))


def last(pieces: Pieces) -> SparseRows:
    """Return the weight 1 for the last piece of each text."""
    return proportional(pieces, (places_from_end(pieces) == 0).astype(float))
