"""Matrices to search in, as real ones are."""

import torch


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embedding_like(num_rows, width, seed):
    """Rows with a common direction, a falling spectrum and a few large coordinates, as real matrices have them."""
    rows = normal(num_rows, width, seed=seed) * torch.linspace(1, 0.2, width)
    rows[:, 3] *= 5
    return rows + normal(width, seed=99)
