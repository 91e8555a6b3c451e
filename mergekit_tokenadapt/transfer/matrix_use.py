"""What a model does with a vocabulary matrix."""

from __future__ import annotations

from enum import Enum


class MatrixUse(Enum):
    """Rows that are right for reading a token are not those that are right for predicting it."""

    INPUT = "input"
    """Its rows are what the model reads."""
    OUTPUT = "output"
    """Its rows are what the model's last hidden states are compared with."""
    TIED = "tied"
    """Both."""
