"""Rows predicted from features of a token, by a regression fitted on the old vocabulary itself.

This is the dense half of a plan. A `SparseRows` says which old rows make a new row. A `RowRegression` holds features
of the new tokens, and of old tokens whose rows are known, the examples. A ridge regression from features to rows is
fitted on every matrix that the plan is applied to, so the input and the output matrix of an untied model get a fit
each. The solution has a closed form. Nothing is random.

Letters: T tokens, X examples, N new rows, V rows of the old matrix, D its width, P principal directions of it,
F columns of the regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.principal_directions import along, principal_directions
from mergekit_tokenadapt.numerics.threads import one_thread, total
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.token_features import PieceFeatures, TokenFeatures

NO_EXAMPLES = "too few base tokens to fit the regression: new rows are the mean rows of their pieces"
PENALTIES = (1e-6, 1e-2, 0.1, 0.3, 1.0, 3.0)
"""L2 penalties that are tried, in units of the number of examples. The held-out examples choose one."""
MIN_EXAMPLES = 4
"""With fewer examples than this to fit, or to hold out, nothing is predicted."""
STRIPS, MIN_STRIP = 8, 256
"""Parts that a Gram matrix is computed in, and the least columns of a part: small products are slow for their size."""
CHUNK = 8192
"""Tokens whose columns are in memory at a time."""
PIECES_SHARE = {MatrixUse.INPUT: 0.0, MatrixUse.TIED: 0.25, MatrixUse.OUTPUT: 0.5}
"""Share of a row that is the weighted mean of its pieces' rows. The rest is the prediction.

The model should predict a new token wherever it used to predict the token's first piece, so that piece's output
row still holds the new token's probability. The examples cannot teach this: the model was trained with them, and
their probability is no longer in the rows of their pieces. Pure predictions would make new tokens too unlikely.
The shares were chosen on text: docs/findings.md.
"""


@dataclass(frozen=True)
class FitReport:
    """How well the regression predicts held-out old rows."""

    examples: int
    """Number of old rows that the regression was fitted on in the end, held-out ones included."""
    held_out: int
    """Number of old rows that chose the penalty."""
    penalty: float
    """The L2 penalty that was chosen, one of `PENALTIES` or a larger one where that is numerically too small."""
    explained: float
    """Share of the held-out rows' variance that is predicted: 1 is exact, 0 is no better than their mean."""


@dataclass(frozen=True)
class Map:
    """An affine map from columns to rows. Columns are centred and scaled to unit variance first."""

    mean_F: Tensor
    scale_F: Tensor
    weights_FD: Tensor
    answer_mean_D: Tensor

    def __call__(self, columns_TF: Tensor) -> Tensor:
        """Return the predicted rows, float32 [T, D]."""
        return ((columns_TF - self.mean_F) / self.scale_F) @ self.weights_FD + self.answer_mean_D

    def to(self, device: torch.device) -> Map:
        """Return the same map on a device."""
        return Map(*(part.to(device) for part in (self.mean_F, self.scale_F, self.weights_FD, self.answer_mean_D)))


@dataclass(frozen=True)
class Fit:
    """A regression fitted on one matrix. It serves for every matrix that holds the same numbers."""

    directions_DP: Tensor | None
    """Principal directions along which the columns are made of old rows; None: of the rows as they are."""
    rows_of: Map
    """The map from columns to rows."""
    report: FitReport
    """How well the map predicts held-out rows."""

    def to(self, device: torch.device) -> Fit:
        """Return the same fit on a device."""
        directions = None if self.directions_DP is None else self.directions_DP.to(device)
        return Fit(directions, self.rows_of.to(device), self.report)


@dataclass(frozen=True)
class RowRegression:
    """Features of old tokens with known rows (the examples), and of the new tokens."""

    example_ids: Tensor
    """int64 [X]: the old rows that are the examples' answers."""
    is_held_out: Tensor
    """bool [X]: examples that choose the penalty. The final fit uses them as well."""
    examples: TokenFeatures
    new_ids: Tensor
    """int64 [N]: the new rows that are predicted."""
    new: TokenFeatures
    keeps_pieces: bool = False
    """Whether rows of output matrices keep a share of their pieces' rows, see `PIECES_SHARE`."""

    def share_of_pieces(self, use: MatrixUse) -> float:
        """Return the share of a row that is the weighted mean of its pieces' rows; the rest is the prediction."""
        return PIECES_SHARE[use] if self.keeps_pieces else 0.0

    @property
    def can_be_stored(self) -> bool:
        """Whether the features are small enough to be stored with a plan. A donor's rows are not."""
        return isinstance(self.examples, PieceFeatures)

    @property
    def used_ids(self) -> Tensor:
        """All old rows that fit and predictions use, int64; an id may occur more than once."""
        return torch.cat([self.example_ids, self.examples.used_ids, self.new.used_ids])

    def fit(self, matrix_VD: Tensor, usable_V: Tensor) -> Fit | None:
        """Fit the regression on a matrix.

        Args:
            matrix_VD: the old rows, float32, all finite.
            usable_V: bool; old rows that may be examples.

        Returns:
            The fit, on the matrix' device; None where there are too few examples to fit and to hold out.
        """
        usable_X = usable_V.cpu()[self.example_ids]
        num_held_out = int((usable_X & self.is_held_out).sum())
        if min(num_held_out, int(usable_X.sum()) - num_held_out) < MIN_EXAMPLES:
            return None
        directions_DP = principal_directions(matrix_VD)
        regression = _Regression.prepare(self, matrix_VD, along(matrix_VD, directions_DP), usable_X)
        rows_of, penalty, explained = regression.solve()
        return Fit(directions_DP, rows_of, FitReport(int(usable_X.sum()), num_held_out, penalty, explained))

    def predict(self, fit: Fit, matrix_VD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the predicted rows a chunk at a time.

        Args:
            fit: what `fit` returned for a matrix with the same numbers.
            matrix_VD: the old rows, float32, all finite.

        Yields:
            Places among the N new tokens, and their rows, float32 [chunk, D], on the matrix' device.
        """
        fit = fit.to(matrix_VD.device)
        matrix_VP = along(matrix_VD, fit.directions_DP)
        for start in range(0, len(self.new), CHUNK):
            places = torch.arange(start, min(start + CHUNK, len(self.new)))
            yield slice(start, start + len(places)), fit.rows_of(self.new.select(places).columns(matrix_VP))

    def tensors(self) -> dict[str, Tensor]:
        """Return the features as named tensors, for `from_tensors`. Only where `can_be_stored`."""
        assert isinstance(self.examples, PieceFeatures)
        assert isinstance(self.new, PieceFeatures)
        own = {"example_ids": self.example_ids, "is_held_out": self.is_held_out, "new_ids": self.new_ids}
        own["keeps_pieces"] = torch.tensor([self.keeps_pieces])
        return own | {
            f"{part}.{name}": tensor
            for part, features in (("examples", self.examples), ("new", self.new))
            for name, tensor in features.tensors().items()
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> RowRegression:
        """Return the regression that `tensors` was called on.

        Raises:
            KeyError: a tensor is missing.
            ValueError: the tensors do not fit together.
        """

        def read(part: str) -> PieceFeatures:
            prefix = f"{part}."
            return PieceFeatures.from_tensors(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )

        examples, new = read("examples"), read("new")
        example_ids, is_held_out, new_ids = (tensors[name] for name in ("example_ids", "is_held_out", "new_ids"))
        if not example_ids.shape == is_held_out.shape == (len(examples),) or new_ids.shape != (len(new),):
            raise ValueError("a regression's tokens and their features do not fit together")
        if example_ids.dtype != torch.int64 or (example_ids < 0).any() or is_held_out.dtype != torch.bool:
            raise ValueError("a regression's examples have the wrong values")
        if examples.scalars.shape[1] != new.scalars.shape[1]:
            raise ValueError("a regression's features about examples and new tokens are of different kinds")
        keeps_pieces = tensors["keeps_pieces"]
        if keeps_pieces.shape != (1,) or keeps_pieces.dtype != torch.bool:
            raise ValueError("keeps_pieces is not yes or no")
        return cls(example_ids, is_held_out, examples, new_ids, new, bool(keeps_pieces))


def gram(columns_XF: Tensor) -> Tensor:
    """``columns_XF.T @ columns_XF``, float32 [F, F], strip by strip. The part below the diagonal is mirrored."""
    width = columns_XF.shape[1]
    products_FF = columns_XF.new_empty((width, width))
    strip = max(MIN_STRIP, -(-width // STRIPS))
    for start in range(0, width, strip):
        end = start + strip
        products_FF[start:end, start:] = columns_XF[:, start:end].T @ columns_XF[:, start:]
        products_FF[end:, start:end] = products_FF[start:end, end:].T
    return products_FF


@dataclass(frozen=True)
class _Equations:
    """The normal equations of a set of examples: products in float32, sums in float64."""

    gram_FF: Tensor
    answers_FD: Tensor
    variance: float
    """Sum of the squared, centred answers."""
    count: int

    def plus(self, columns_XF: Tensor, answers_XD: Tensor) -> _Equations:
        """Return the equations with some more examples."""
        return _Equations(
            self.gram_FF + gram(columns_XF),
            self.answers_FD + columns_XF.T @ answers_XD,
            self.variance + float(total(answers_XD.square().double())),
            self.count + len(columns_XF),
        )

    def ridge(self, penalty: float) -> Tensor | None:
        """Return the weights of a ridge regression, [F, D]; None where rounding errors outweigh the penalty."""
        damped = self.gram_FF.clone()
        damped.diagonal().add_(penalty * self.count)
        with one_thread():
            factor, failed = torch.linalg.cholesky_ex(damped)
        return None if failed else torch.cholesky_solve(self.answers_FD, factor)

    def explained(self, weights_FD: Tensor) -> float:
        """Return the share of these examples' variance that some weights explain: 1 - error / variance."""
        predicted = total(weights_FD * (self.gram_FF @ weights_FD))
        agreement = total(weights_FD * self.answers_FD)
        return float(2 * agreement - predicted) / self.variance if self.variance else 0.0


@dataclass(frozen=True)
class _Regression:
    """One matrix' regression: columns and answers centred, columns scaled to unit variance."""

    mean_F: Tensor
    scale_F: Tensor
    answer_mean_D: Tensor
    fitted: _Equations
    held_out: _Equations

    @classmethod
    def prepare(cls, regression: RowRegression, matrix_VD: Tensor, matrix_VP: Tensor, usable_X: Tensor) -> _Regression:
        fitted_X, held_out_X = usable_X & ~regression.is_held_out, usable_X & regression.is_held_out
        examples, answers = regression.examples, regression.example_ids.to(matrix_VD.device)
        answer_mean_D = matrix_VD[answers[usable_X.to(answers.device)]].mean(0)

        total, squares = torch.zeros(1), torch.zeros(1)
        for places in _chunks_of(usable_X):
            columns = examples.select(places).columns(matrix_VP).double()
            total, squares = total.to(columns) + columns.sum(0), squares.to(columns) + columns.square().sum(0)
        mean_F = total / int(usable_X.sum())
        power_F = squares / int(usable_X.sum())
        variance_F = (power_F - mean_F.square()).clamp(min=0)
        # A column that is constant but for rounding errors is left out (divided by infinity). Divided by its tiny
        # standard deviation, the errors would become as large as the other columns.
        scale_F = torch.where(variance_F > 1e-9 * power_F, variance_F.sqrt(), torch.inf).float()

        def equations(chosen_X: Tensor) -> _Equations:
            zeros = torch.zeros((), dtype=torch.float64, device=matrix_VD.device)
            result = _Equations(zeros, zeros, 0.0, 0)
            for places in _chunks_of(chosen_X):
                columns = (examples.select(places).columns(matrix_VP) - mean_F.float()) / scale_F
                result = result.plus(columns, matrix_VD[answers[places.to(answers.device)]] - answer_mean_D)
            return result

        return cls(mean_F.float(), scale_F, answer_mean_D, equations(fitted_X), equations(held_out_X))

    def solve(self) -> tuple[Map, float, float]:
        """Return the map of the best penalty, that penalty, and the share of the held-out variance that it explains.

        The held-out examples choose the penalty. The map is then fitted on all examples.
        """
        maps = {penalty: self.fitted.ridge(penalty) for penalty in PENALTIES}
        tried = [(self.held_out.explained(found), penalty) for penalty, found in maps.items() if found is not None]
        explained, penalty = max(tried)
        everything = _Equations(
            self.fitted.gram_FF + self.held_out.gram_FF,
            self.fitted.answers_FD + self.held_out.answers_FD,
            self.fitted.variance + self.held_out.variance,
            self.fitted.count + self.held_out.count,
        )
        # All examples together may need a larger penalty than a part of them to be solvable.
        larger = [p for p in PENALTIES if p >= penalty]
        penalty, weights_FD = next((p, w) for p in larger if (w := everything.ridge(p)) is not None)
        return Map(self.mean_F, self.scale_F, weights_FD.float(), self.answer_mean_D), penalty, explained


def _chunks_of(chosen: Tensor) -> list[Tensor]:
    """Return the places where `chosen` is true, int64, in chunks of at most `CHUNK`."""
    return list(chosen.nonzero().flatten().split(CHUNK))  # type: ignore[no-untyped-call]
