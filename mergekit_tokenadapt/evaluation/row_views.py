"""Describe old and new rows of the input embedding for pictures: histograms of norms, and a 2-D view.

Letters: R rows, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.numerics.row_math import row_norms

NUM_BINS = 40
"""Number of bins in a histogram."""
NUM_POINTS = 600
"""Most rows of each kind in the 2-D view."""


def view_rows(origins: RowOrigins, seed: int = 0) -> dict[str, Any]:
    """Return histograms of row norms, and old and new rows projected onto two axes.

    The axes are the first two principal components of the old (copied) rows. `explained` is their share of the variance
    of the old rows. The points are a random sample that depends only on the seed.
    """
    matrix_RD = origins.model.rows(origins.model.input_matrix)
    old, new = torch.from_numpy(origins.copied_ids), torch.from_numpy(origins.new_ids)
    norms = row_norms(matrix_RD)
    edges = np.histogram_bin_edges(norms.numpy(), NUM_BINS)
    mean_D, axes_D2, explained = _principal_axes(matrix_RD[old].float())
    generator = torch.Generator().manual_seed(seed)
    view: dict[str, Any] = {"edges": edges.round(4).tolist(), "explained": explained}
    for name, ids in (("old", old), ("new", new)):
        sample = ids[torch.randperm(len(ids), generator=generator)[:NUM_POINTS]]
        points = (matrix_RD[sample].float() - mean_D) @ axes_D2
        view[name] = {
            "rows": len(ids),
            "histogram": np.histogram(norms[ids].numpy(), edges)[0].tolist(),
            "points": [[round(x, 3), round(y, 3)] for x, y in points.tolist()],
        }
    return view


def _principal_axes(rows_RD: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the mean [D], the two axes of largest variance [D, 2], and their share of the variance."""
    mean_D = rows_RD.mean(dim=0)
    # The D x D covariance is small, where a decomposition of all rows would not be. It is summed in float64.
    centred = (rows_RD - mean_D).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes_D2 = vectors[:, [-1, -2]]
    # The sign of an eigenvector is arbitrary. Its largest component is made positive, so that pictures do not flip.
    largest = axes_D2.abs().argmax(dim=0)
    axes_D2 = axes_D2 * axes_D2[largest, torch.arange(2)].sign()
    return mean_D, axes_D2.float(), float(values[-2:].sum() / values.sum())
