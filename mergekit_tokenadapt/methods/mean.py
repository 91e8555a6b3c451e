"""The plain mean of the pieces' rows: ReTok (arXiv 2410.04335)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mergekit_tokenadapt.methods.base import Method
from mergekit_tokenadapt.mixture import Mixture
from mergekit_tokenadapt.problem import TransferProblem
from mergekit_tokenadapt.segmentation import Pieces


class Mean(Method):
    """The mean of the rows of the pieces into which the base tokenizer splits the new token."""

    summary: ClassVar[str] = "mean of the rows of the old pieces; needs nothing else"
    source: ClassVar[str] = "ReTok, arXiv 2410.04335"

    def weigh(self, problem: TransferProblem) -> Mixture:
        """Return equal weights for all pieces of a token. A piece that occurs twice counts twice."""
        return uniform(problem.pieces)


def uniform(pieces: Pieces) -> Mixture:
    """Return equal weights for the pieces of each text; they add up to 1."""
    rows = torch.from_numpy(pieces.rows)
    weights = 1 / torch.from_numpy(pieces.counts).float()[rows]
    return Mixture.from_triplets(rows, torch.from_numpy(pieces.ids), weights, len(pieces))
