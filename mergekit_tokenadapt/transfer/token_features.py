"""Features of tokens, as columns of the row regression.

Letters: T tokens, V rows of the old matrix, P principal directions of it, K neighbours, S scalars, G width of given
vectors, F columns of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows

SHARPNESS = 0.1
"""Temperature of the softmax over the neighbours' similarities, which weighs their rows in `PieceFeatures.columns`."""


@runtime_checkable  # pydantic asks: plans are fields of mergekit's tasks
class TokenFeatures(Protocol):
    """Features of T tokens, which become columns of the regression once the old matrix is known."""

    def __len__(self) -> int: ...

    @property
    def used_ids(self) -> Tensor:
        """The old rows that the columns are made of, int64; an id may occur more than once."""

    def select(self, places: Tensor) -> TokenFeatures:
        """Return the features of the tokens at some places, int64, in that order."""

    def columns(self, matrix_VP: Tensor) -> Tensor:
        """Return the columns, float32 [T, F], on the device of the old rows, float32 [V, P]."""


@dataclass(frozen=True)
class PieceFeatures:
    """Features of T tokens: their pieces, their nearest other old tokens, and scalars."""

    pieces: SparseRows
    """For each token, its pieces with equal weights, in the order of the text."""
    neighbours: Tensor
    """int32 [T, K]: ids of old tokens, most similar first; never the token itself."""
    similarities: Tensor
    """float32 [T, K]: their cosine similarities; -inf where there is no such neighbour."""
    scalars: Tensor
    """float32 [T, S]: what the token's text is like, for instance its length and its first character's category."""

    def __len__(self) -> int:
        return len(self.scalars)

    @property
    def used_ids(self) -> Tensor:
        """The ids of pieces and neighbours, int64."""
        return torch.cat([self.pieces.ids, self.neighbours.flatten().long()])

    def select(self, places: Tensor) -> PieceFeatures:
        """Return the features of the tokens at some places, int64, in that order."""
        return PieceFeatures(
            self.pieces.select(places), self.neighbours[places], self.similarities[places], self.scalars[places]
        )

    def columns(self, matrix_VP: Tensor) -> Tensor:
        """Return the columns of the regression, float32 [T, F] with F = 7 P + S + 4.

        Seven are old rows, P columns each: the mean of the pieces' rows, the first piece's, and the last piece's; the
        nearest neighbour's row and the weighted sum of all neighbours' rows; and these two again, times the squared
        similarity of the nearest neighbour. Scaled so, a neighbour counts for more where it is nearer. The rest are
        numbers: log and inverse of the number of pieces, the nearest neighbour's similarity and its square, and
        `scalars`.

        A mean of the pieces' rows weighted by their lengths was tried as well. It did not improve the prediction of
        held-out rows.
        """
        device = matrix_VP.device
        counts = self.pieces.counts.to(device).float()
        has_pieces = (counts > 0).float()[:, None]
        starts, ends = self.pieces.indptr[:-1], self.pieces.indptr[1:] - 1
        last_piece = max(0, len(self.pieces.ids) - 1)
        # A token without pieces has no first one: any row is taken, and set to 0 by `has_pieces`.
        padded = self.pieces.ids if len(self.pieces.ids) else torch.zeros(1, dtype=torch.int64)
        first, last = (padded[at.clamp(0, last_piece)].to(device) for at in (starts, ends))

        similarities_TK = self.similarities.to(device)
        nearness_T1 = similarities_TK[:, :1].clamp(min=0)
        weights_TK = torch.nan_to_num((similarities_TK / SHARPNESS).softmax(dim=1))
        ids_TK = self.neighbours.to(device).long()
        nearest_TP = matrix_VP[ids_TK[:, 0]] * similarities_TK[:, :1].isfinite()
        around_TP = torch.nn.functional.embedding_bag(ids_TK, matrix_VP, mode="sum", per_sample_weights=weights_TK)
        parts = [
            self.pieces.apply(matrix_VP),
            matrix_VP[first] * has_pieces,
            matrix_VP[last] * has_pieces,
            nearest_TP,
            around_TP,
            nearest_TP * nearness_T1.square(),
            around_TP * nearness_T1.square(),
            counts.clamp(min=1).log()[:, None],
            1 / counts.clamp(min=1)[:, None],
            nearness_T1,
            nearness_T1.square(),
            self.scalars.to(device),
        ]
        return torch.cat(parts, dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the features as named tensors, for `from_tensors`."""
        return {
            "pieces.indptr": self.pieces.indptr.int(),
            "pieces.ids": self.pieces.ids.int(),
            "pieces.weights": self.pieces.weights,
            "neighbours": self.neighbours,
            "similarities": self.similarities,
            "scalars": self.scalars,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> PieceFeatures:
        """Return the features that `tensors` was called on.

        Raises:
            KeyError: a tensor is missing.
            ValueError: the tensors do not fit together.
        """
        indptr, ids = tensors["pieces.indptr"].long(), tensors["pieces.ids"].long()
        pieces = SparseRows(indptr, ids, tensors["pieces.weights"])
        pieces.check()
        neighbours, similarities, scalars = (tensors[name] for name in ("neighbours", "similarities", "scalars"))
        if not neighbours.dim() == similarities.dim() == scalars.dim() == 2 or neighbours.shape != similarities.shape:
            raise ValueError("features about tokens have the wrong shapes")
        if not len(neighbours) == len(scalars) == len(pieces) or neighbours.dtype != torch.int32:
            raise ValueError("features about tokens do not fit together")
        if (neighbours < 0).any() or not similarities.dtype == scalars.dtype == torch.float32:
            raise ValueError("features about tokens have the wrong values")
        return cls(pieces, neighbours, similarities, scalars)


@dataclass(frozen=True)
class DenseFeatures:
    """Vectors of T tokens, such as their rows in a donor. They are too large to be stored with a plan."""

    vectors_TG: Tensor
    """float32 [T, G]"""

    def __len__(self) -> int:
        return len(self.vectors_TG)

    @property
    def used_ids(self) -> Tensor:
        """No old rows: an empty int64 tensor."""
        return torch.zeros(0, dtype=torch.int64)

    def select(self, places: Tensor) -> DenseFeatures:
        """Return the features of the tokens at some places, int64, in that order."""
        return DenseFeatures(self.vectors_TG[places])

    def columns(self, matrix_VP: Tensor) -> Tensor:
        """Return the vectors, float32 [T, G], on the device of the old rows."""
        return self.vectors_TG.to(matrix_VP)


@dataclass(frozen=True)
class JointFeatures:
    """Two kinds of features of the same T tokens, side by side."""

    first: TokenFeatures
    second: TokenFeatures

    def __len__(self) -> int:
        return len(self.first)

    @property
    def used_ids(self) -> Tensor:
        """The old rows that the columns of both are made of, int64."""
        return torch.cat([self.first.used_ids, self.second.used_ids])

    def select(self, places: Tensor) -> JointFeatures:
        """Return the features of the tokens at some places, int64, in that order."""
        return JointFeatures(self.first.select(places), self.second.select(places))

    def columns(self, matrix_VP: Tensor) -> Tensor:
        """Return the columns of the first kind, then those of the second, float32 [T, F]."""
        return torch.cat([self.first.columns(matrix_VP), self.second.columns(matrix_VP)], dim=1)
