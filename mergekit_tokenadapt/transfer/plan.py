"""The transfer plan: how every row of the new matrices is made of old rows.

A plan is data. It is made without the weights of the model, and can be saved, explained and tested on its own. Every
row has one of three origins:

- copied: COPIED and SPECIAL rows with a source. The row is the old row, bit for bit.
- composed: NEW rows, and SPECIAL rows made from a text. The row is a weighted sum of old rows, or the
  prediction of a regression that is fitted on the matrix itself.
- mean: PADDING rows, NEW special tokens, NEW tokens for which the method found nothing, and rows of unreachable tokens.
  The row is the mean of all copied and composed rows. Its logit is the mean of their logits and never the highest, so
  such a token is never generated. A row of zeros (logit 0) could be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import CHUNK_ROWS, SparseRows
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.row_regression import NO_EXAMPLES, Fit, FitReport, RowRegression

LOG = logging.getLogger(__name__)

FORMAT = "mergekit-tokenadapt plan 1"


class NotFiniteError(TokenAdaptError):
    """Made rows hold NaN or infinite numbers."""

    def __init__(self, tensor: str, rows: Tensor, reason: str, token: str | None = None) -> None:
        self.tensor, self.rows, self.reason = tensor, rows, reason
        first = f"row {int(rows[0])}" if token is None else f"that of the token {token!r}"
        super().__init__(
            f"{tensor or 'the matrix'}: {len(rows)} of the new rows would hold NaN or infinite numbers, {first} for "
            f"one: {reason}"
        )

    def with_token(self, token: str) -> NotFiniteError:
        """The same, with the first row's token in place of its number."""
        return NotFiniteError(self.tensor, self.rows, self.reason, token)


@dataclass(frozen=True)
class AppliedRows:
    """What `TransferPlan.apply` returns."""

    rows: Tensor
    """[R, ...]: the new rows."""
    fit: Fit | None = None
    """The regression's fit that predicted rows come from; None where nothing is predicted. It can be handed over to
    another `apply` to a matrix with the same numbers."""

    @property
    def report(self) -> FitReport | None:
        """How well the regression fitted; None where nothing is predicted."""
        return None if self.fit is None else self.fit.report


@dataclass(frozen=True)
class TransferPlan:
    """How each of R new rows is made of V old rows."""

    mapping: VocabularyMap
    composed_ids: Tensor
    """int64 [M]: the new rows that are composed."""
    composition: SparseRows
    """The old rows and weights that make each of the M composed rows."""
    method: str
    options: Mapping[str, Any]
    regression: RowRegression | None = None
    """Where there is one, its predictions take the place of compositions; they need to see the matrix."""
    unreachable_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64: rows of tokens that are never produced; they become mean rows, whatever their reason."""
    needs_donor: bool = False
    """Read from a file that does not hold the donor's rows: it explains, and cannot be applied."""

    @property
    def num_rows(self) -> int:
        """R: rows of the new matrices."""
        return self.mapping.num_rows

    @property
    def copied_ids(self) -> Tensor:
        """The new rows that are copied, ascending, int64."""
        is_copied = torch.from_numpy(self.mapping.sources >= 0)
        is_copied[self.unreachable_ids] = False
        return is_copied.nonzero().flatten()

    @property
    def mean_ids(self) -> Tensor:
        """The new rows that are the mean of the other new ones, ascending, int64."""
        return (self.origins < 0).nonzero().flatten()

    @property
    def origins(self) -> Tensor:
        """How each new row is made, int64 [R]: 0 copied, 1 composed, -1 the mean of the others."""
        origins = torch.full((self.num_rows,), -1)
        origins[self.copied_ids] = 0
        origins[self.composed_ids] = 1
        return origins

    @property
    def missing_ids(self) -> Tensor:
        """The new rows that are no copy of an old one, ascending, int64; none where the vocabularies are the same."""
        is_missing = torch.ones(self.num_rows, dtype=torch.bool)
        is_missing[self.copied_ids] = False
        return is_missing.nonzero().flatten() if not self.mapping.is_identity else self.unreachable_ids[:0]

    def counts(self) -> dict[str, int]:
        """Rows by reason; among them `unreachable`, and `unresolved`: NEW rows for which the method found nothing."""
        mean_ids = self.mean_ids[~torch.isin(self.mean_ids, self.unreachable_ids)]
        unresolved = (self.mapping.reasons[mean_ids.numpy()] == Reason.NEW).sum()
        return {**self.mapping.counts(), "unreachable": len(self.unreachable_ids), "unresolved": int(unresolved)}

    def fit(self, matrix: Tensor) -> Fit | None:
        """Fit the plan's regression on a matrix, for `apply`.

        Args:
            matrix: as for `apply`; not changed.

        Returns:
            The fit, on the matrix' device; None where the plan has no regression, or too few examples.

        Raises:
            TokenAdaptError: the matrix has fewer rows than the plan uses, or the plan lacks its donor.
        """
        self._check_applicable(matrix)
        if self.regression is None:
            return None
        clean_VD, is_finite_V = _without_bad_rows(matrix.reshape(len(matrix), -1))
        return self.regression.fit(clean_VD.float(), is_finite_V)

    def apply(
        self, matrix: Tensor, name: str = "", use: MatrixUse = MatrixUse.INPUT, *, fit: Fit | None = None
    ) -> AppliedRows:
        """Make the new rows from the old ones. Nothing is changed.

        Sums are computed in float32, a chunk of rows at a time. Beside the result, no copy of a whole matrix is made,
        except that a regression needs the old one in float32.

        Args:
            matrix: [V, ...], any floating dtype, vocabulary axis first. One-dimensional for vocabulary biases.
            name: name of the tensor, for error messages.
            use: what the model does with the tensor; only a regression asks.
            fit: what `fit` or `apply` returned for a matrix with the same numbers; None: the regression is fitted here.

        Returns:
            The new rows, [R, ...], same dtype and device, and the fit that they were predicted with.

        Raises:
            TokenAdaptError: the matrix has fewer rows than the plan uses, or the plan lacks its donor, or rows that
                are no copies are not finite.
        """
        self._check_applicable(matrix)
        if self.mapping.is_identity and self.num_rows == len(matrix):
            return AppliedRows(matrix.clone())
        device = matrix.device
        flat_VD = matrix.reshape(len(matrix), -1)
        new_RD = torch.empty((self.num_rows, flat_VD.shape[1]), dtype=matrix.dtype, device=device)
        copied = self.copied_ids
        sources = torch.from_numpy(self.mapping.sources)
        for ids in copied.split(CHUNK_ROWS):  # type: ignore[no-untyped-call]
            new_RD[ids.to(device)] = flat_VD.index_select(0, sources[ids].to(device))
        clean_VD, is_finite_V = _without_bad_rows(flat_VD)
        if num_bad := int((~is_finite_V).sum()):
            LOG.warning("%d old rows hold NaN or infinite numbers: the mean row takes their place in new rows", num_bad)
        _put(new_RD, self.composed_ids, self.composition.in_chunks(clean_VD))
        if self.regression is not None:
            fit = self._predict(new_RD, clean_VD.float(), is_finite_V, use, fit)
        # After all copied and composed rows are there: the mean is taken over them.
        made = torch.cat([copied, self.composed_ids]).to(device)
        mean = mean_row(new_RD, made) if len(made) else mean_row(flat_VD, torch.arange(len(matrix), device=device))
        new_RD[self.mean_ids.to(device)] = mean.to(matrix.dtype)
        self.check_made(new_RD, name, clean_VD)
        return AppliedRows(new_RD.reshape(self.num_rows, *matrix.shape[1:]), fit)

    def _check_applicable(self, matrix: Tensor) -> None:
        """Refuse a matrix that the plan cannot be applied to.

        Raises:
            TokenAdaptError: the matrix has fewer rows than the plan uses, or the plan lacks its donor.
        """
        if self.needs_donor:
            raise TokenAdaptError("this plan was made with a donor's rows, which it does not hold: make it again")
        used = [torch.from_numpy(self.mapping.sources), self.composition.ids]
        used += [self.regression.used_ids] if self.regression is not None else []
        needed = int(torch.cat(used).max()) + 1
        if len(matrix) < needed:
            raise TokenAdaptError(f"a vocabulary tensor has {len(matrix)} rows, but the plan uses {needed}")

    def check_made(self, new_RD: Tensor, name: str, old_VD: Tensor | None = None) -> None:
        """Refuse made rows that hold NaN or infinite numbers. Copied rows are what they were, whatever that is.

        Args:
            new_RD: the new rows.
            name: of the tensor.
            old_VD: the old rows, to say what it may come from.

        Raises:
            NotFiniteError: there are such rows.
        """
        ids = (self.origins != 0).nonzero().flatten()
        chunks = ids.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
        bad = ids[~torch.cat([_finite_rows(new_RD[some.to(new_RD.device)].flatten(1)).cpu() for some in chunks])]
        if len(bad):
            raise NotFiniteError(name, bad, _why_not_finite(new_RD.dtype, old_VD))

    def _predict(
        self, new_RD: Tensor, matrix_VD: Tensor, is_finite_V: Tensor, use: MatrixUse, fit: Fit | None
    ) -> Fit | None:
        """Put the regression's predictions into the new rows, beside a share of the compositions that are there."""
        assert self.regression is not None
        fit = fit or self.regression.fit(matrix_VD, is_finite_V)
        if fit is None:
            LOG.warning(NO_EXAMPLES)
            return None
        chunks = self.regression.predict(fit, matrix_VD)
        ids, share = self.regression.new_ids, self.regression.share_of_pieces(use)
        if share:
            chunks = (
                (places, share * new_RD[ids[places].to(new_RD.device)].float() + (1 - share) * rows)
                for places, rows in chunks
            )
        _put(new_RD, ids, chunks)
        return fit

    def explain(self, row: int) -> list[tuple[int, float]]:
        """(old id, weight) pairs that make a new row, heaviest first; empty for a mean row."""
        if (self.unreachable_ids == row).any():
            return []
        if self.mapping.sources[row] >= 0:
            return [(int(self.mapping.sources[row]), 1.0)]
        place = (self.composed_ids == row).nonzero().flatten()
        return self.composition.row(int(place[0])) if len(place) else []

    def save(self, file: Path) -> None:
        """Write the plan: safetensors content with a JSON header. Same plan, same bytes."""
        header = {
            "format": FORMAT,
            "method": self.method,
            "options": dict(self.options),
            "texts": {str(row): text for row, text in sorted(self.mapping.texts.items())},
            "is_identity": self.mapping.is_identity,
            "needs_donor": self.needs_donor or (self.regression is not None and not self.regression.can_be_stored),
        }
        tensors = {
            "reasons": torch.from_numpy(self.mapping.reasons),
            "sources": torch.from_numpy(self.mapping.sources),
            "composed_ids": self.composed_ids,
            "indptr": self.composition.indptr,
            "ids": self.composition.ids,
            "weights": self.composition.weights,
            "unreachable_ids": self.unreachable_ids,
        }
        if self.regression is not None and self.regression.can_be_stored:
            tensors |= {f"regression.{name}": tensor for name, tensor in self.regression.tensors().items()}
        save_tensors(tensors, file, {"plan": json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, file: Path) -> TransferPlan:
        """Read a plan that `save` wrote.

        Raises:
            TokenAdaptError: the file is missing, or not a plan.
        """
        try:
            with safe_open(str(file), framework="pt") as opened:
                header = json.loads((opened.metadata() or {})["plan"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if header["format"] != FORMAT:
                raise TokenAdaptError(f"{file} is a plan of another version: {header['format']!r}, not {FORMAT!r}")
            mapping = VocabularyMap(
                tensors["reasons"].numpy(),
                tensors["sources"].numpy(),
                {int(row): text for row, text in header["texts"].items()},
                header["is_identity"],
            )
            composition = SparseRows(tensors["indptr"], tensors["ids"], tensors["weights"])
            prefix = "regression."
            saved = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            regression = RowRegression.from_tensors(saved) if saved else None
            plan = cls(
                mapping,
                tensors["composed_ids"],
                composition,
                header["method"],
                header["options"],
                regression,
                tensors["unreachable_ids"],
                header["needs_donor"],
            )
            plan._check()
            return plan
        except (OSError, KeyError, ValueError, AttributeError, TypeError, SafetensorError) as error:
            if isinstance(error, TokenAdaptError):
                raise
            raise TokenAdaptError(f"{file} is not a transfer plan: {error}") from error

    def _check(self) -> None:
        """Find out now whether the parts of a file fit together, not while a matrix is made.

        Raises:
            ValueError: they do not.
        """
        reasons, sources = self.mapping.reasons, self.mapping.sources
        rows = reasons.shape
        if len(rows) != 1 or sources.shape != rows or reasons.dtype != np.int8 or sources.dtype != np.int64:
            raise ValueError("reasons and sources do not fit together")
        if not np.isin(reasons, list(Reason)).all() or (sources < -1).any():
            raise ValueError("there are unknown reasons or sources")
        self.composition.check()
        if len(self.composition) != len(self.composed_ids):
            raise ValueError("compositions and the rows that they make do not fit together")
        calibrated = [] if self.regression is None else [self.regression.new_ids]
        for ids in (self.composed_ids, self.unreachable_ids, *calibrated):
            if ids.dtype != torch.int64 or ids.dim() != 1 or ((ids < 0) | (ids >= rows[0])).any():
                raise ValueError("there are ids beyond the rows")


def _why_not_finite(dtype: torch.dtype, old_VD: Tensor | None) -> str:
    """What rows that are not finite may come of, where the weights of the compositions are."""
    name = str(dtype).removeprefix("torch.")
    parts = () if old_VD is None else old_VD.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
    largest = max((float(part.abs().max()) for part in parts), default=0.0)
    if largest > 1e4:
        return f"the old rows hold numbers of up to {largest:.2g}, whose sums overflow; is the tensor damaged?"
    return f"the sums overflow {name}; the method's options may be out of reach, or give a wider dtype"


def _put(new_RD: Tensor, ids: Tensor, chunks: Iterable[tuple[slice, Tensor]]) -> None:
    """Write rows that come chunk by chunk into the new matrix, in its dtype."""
    for places, rows in chunks:
        new_RD[ids[places].to(new_RD.device)] = rows.to(new_RD.dtype)


def _finite_rows(matrix_VD: Tensor) -> Tensor:
    """Which rows are finite, bool [V]."""
    parts = matrix_VD.split(CHUNK_ROWS)  # type: ignore[no-untyped-call]
    return torch.cat([part.isfinite().all(dim=1) for part in parts])


def _without_bad_rows(matrix_VD: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix with the mean row in place of rows that are not finite, and bool [V]: which are finite."""
    is_finite = _finite_rows(matrix_VD)
    if is_finite.all():
        return matrix_VD, is_finite
    mean = mean_row(matrix_VD, torch.arange(len(matrix_VD), device=matrix_VD.device))
    return torch.where(is_finite[:, None], matrix_VD, mean.to(matrix_VD.dtype)), is_finite


def mean_row(matrix_VD: Tensor, ids: Tensor, *, block: int = 8192, columns: int = 128) -> Tensor:
    """The mean of some rows, float32 [D], computed in float64, a block of rows and a few columns at a time.

    Rows with NaN or infinite numbers are left out, so that they do not spread.
    """
    total = torch.zeros(matrix_VD.shape[1], dtype=torch.float64, device=matrix_VD.device)
    is_finite, num_finite = _finite_rows(matrix_VD), 0
    for start in range(0, len(ids), block):
        some = ids[start : start + block]
        some = some[is_finite[some]]
        num_finite += len(some)
        for left in range(0, matrix_VD.shape[1], columns):
            part = matrix_VD[:, left : left + columns].index_select(0, some)
            total[left : left + columns] += part.sum(0, dtype=torch.float64)
    return (total / max(1, num_finite)).float()
