"""What a model does with a vocabulary matrix."""

from __future__ import annotations

from enum import Enum


class MatrixUse(Enum):
    """What a model does with a matrix. The best row for reading a token differs from the best one for predicting it."""

    INPUT = "input"
    """Embeddings: the model reads the rows."""
    OUTPUT = "output"
    """`lm_head`: logits are the products of the last hidden state with the rows."""
    TIED = "tied"
    """One matrix for both."""
