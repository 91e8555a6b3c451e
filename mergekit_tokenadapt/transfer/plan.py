"""The transfer plan: how every row of the new matrices is made of old rows.

A plan is data. It is made without the weights of the model, and can be saved (`plan_files`), explained and tested on
its own. Every row has one of three origins:

- copied: COPIED and SPECIAL rows with a source. The row is the old row, bit for bit.
- composed: NEW rows, and SPECIAL rows made from a text. The row is a weighted sum of old rows, or the
  prediction of a regression that is fitted on the matrix itself, or of another model, or drawn from a distribution of
  the old rows. Input rows and output rows may have different weights; a tied matrix then gets the mean of the two.
- mean: PADDING rows, NEW special tokens, NEW tokens for which the method found nothing, and rows of unreachable tokens.
  The row is the mean of all copied and composed rows. Its logit is the mean of their logits and never the highest, so
  such a token is never generated. A row of zeros (logit 0) could be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import CHUNK_ROWS, SparseRows
from mergekit_tokenadapt.transfer.drawn_rows import DrawnRows
from mergekit_tokenadapt.transfer.finite_rows import check_finite, mean_row, without_bad_rows
from mergekit_tokenadapt.transfer.given_rows import GivenRows
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.median_norms import MedianNorms
from mergekit_tokenadapt.transfer.row_regression import NO_EXAMPLES, Fit, FitReport, RowRegression

LOG = logging.getLogger(__name__)


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
    """The reason and the source of each row."""
    composed_ids: Tensor
    """int64 [M]: the new rows that are composed."""
    composition: SparseRows
    """The old rows and weights that make each of the M composed rows. A row without weights is drawn, given or
    predicted, or the mean row where it cannot be."""
    method: str
    """The name of the method."""
    options: Mapping[str, Any]
    """The options of the method."""
    regression: RowRegression | None = None
    """If there is one, its predictions replace the compositions of its tokens. It is fitted on each matrix."""
    unreachable_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64: rows of tokens that the target never produces. They become mean rows, whatever their reason."""
    needs_donor: bool = False
    """Whether the plan was read from a file, and lacks rows or states of a model that it needs. Such a plan can be
    explained, but not applied."""
    output_composition: SparseRows | None = None
    """As `composition`, for output matrices; None: `composition` is for all matrices."""
    input_norms: MedianNorms | None = None
    """The norms to which the M composed rows of input matrices are rescaled; None: they keep theirs. Rows of tied
    matrices are not rescaled."""
    drawn: DrawnRows | None = None
    """If there are such rows, they replace the compositions of their tokens."""
    glossary_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64: the composed rows that come from the user's glossary, not from the method."""
    given: GivenRows | None = None
    """If there are such rows, they replace the compositions of their tokens in matrices."""

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
        """The new rows that are the mean of the copied and composed ones, ascending, int64."""
        return (self.origins < 0).nonzero().flatten()

    @property
    def origins(self) -> Tensor:
        """How each new row is made, int64 [R]: 0 copied, 1 composed, -1 mean."""
        origins = torch.full((self.num_rows,), -1)
        origins[self.copied_ids] = 0
        origins[self.composed_ids] = 1
        return origins

    @property
    def missing_ids(self) -> Tensor:
        """The new rows that are no copies, ascending, int64; none if the vocabularies are the same."""
        is_missing = torch.ones(self.num_rows, dtype=torch.bool)
        is_missing[self.copied_ids] = False
        return is_missing.nonzero().flatten() if not self.mapping.is_identity else self.unreachable_ids[:0]

    def counts(self) -> dict[str, int]:
        """Return the number of rows for each reason, by its lower-case name.

        Two more counts overlap with these: `unreachable`, and `unresolved` for NEW rows without a composition.
        """
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
        clean_VD, is_finite_V = without_bad_rows(matrix.reshape(len(matrix), -1))
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
            use: what the model does with the tensor. Many methods make the same rows for all uses.
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
        # Copies are made from the rows as they are. Sums and fits use rows without NaN, which would spread.
        clean_VD, is_finite_V = without_bad_rows(flat_VD)
        if num_bad := int((~is_finite_V).sum()):
            LOG.warning("%d old rows hold NaN or infinite numbers: the mean row takes their place in new rows", num_bad)
        _put(new_RD, self.composed_ids, self._composed(clean_VD, use))
        if self.drawn is not None:
            _put(new_RD, self.drawn.new_ids, self.drawn.rows(clean_VD, use))
        if self.given is not None and matrix.dim() > 1:
            _put(new_RD, self.given.new_ids, self.given.rows(use, flat_VD.shape[1]))
        used = None
        if self.regression is not None:
            used = self._predict(new_RD, clean_VD.float(), is_finite_V, use, fit)
        # After all copied and composed rows are there: the mean is taken over them.
        composed = self._composed_in(is_matrix=matrix.dim() > 1, is_predicted=used is not None)
        made = torch.cat([copied, composed]).to(device)
        mean = mean_row(new_RD, made) if len(made) else mean_row(flat_VD, torch.arange(len(matrix), device=device))
        is_left = torch.ones(self.num_rows, dtype=torch.bool)
        is_left[made.cpu()] = False
        new_RD[is_left.to(device)] = mean.to(matrix.dtype)
        self.check_made(new_RD, name, clean_VD)
        return AppliedRows(new_RD.reshape(self.num_rows, *matrix.shape[1:]), used)

    @property
    def _ids_with_pieces(self) -> Tensor:
        """The composed rows that have a composition, int64."""
        return self.composed_ids[self.composition.counts > 0]

    def _composed_in(self, *, is_matrix: bool, is_predicted: bool) -> Tensor:
        """Return the composed rows that a tensor gets, int64. Those without pieces may have no other source.

        Args:
            is_matrix: whether the tensor has given rows; a vocabulary bias has none.
            is_predicted: whether the regression could be fitted on it.
        """
        parts = [self._ids_with_pieces]
        parts += [self.drawn.new_ids] if self.drawn is not None else []
        parts += [self.given.new_ids] if self.given is not None and is_matrix else []
        parts += [self.regression.new_ids] if self.regression is not None and is_predicted else []
        return self.composed_ids[torch.isin(self.composed_ids, torch.cat(parts))]

    def _check_applicable(self, matrix: Tensor) -> None:
        """Refuse a matrix that the plan cannot be applied to.

        Raises:
            TokenAdaptError: the matrix has fewer rows than the plan uses, or the plan lacks its donor.
        """
        if self.needs_donor:
            raise TokenAdaptError(
                "this plan lacks rows or states of a model, which are too large to be stored: make it again"
            )
        used = [torch.from_numpy(self.mapping.sources), self.composition.ids]
        used += [self.regression.used_ids] if self.regression is not None else []
        used += [self.output_composition.ids] if self.output_composition is not None else []
        used += [self.input_norms.members] if self.input_norms is not None else []
        used += [self.drawn.base_ids] if self.drawn is not None else []
        needed = int(torch.cat(used).max()) + 1
        if len(matrix) < needed:
            raise TokenAdaptError(f"a vocabulary tensor has {len(matrix)} rows, but the plan uses {needed}")

    def _composed(self, matrix_VD: Tensor, use: MatrixUse) -> Iterator[tuple[slice, Tensor]]:
        """Yield the composed rows, float32, a chunk at a time, with their places among `composed_ids`."""
        as_input = self.composition.in_chunks(matrix_VD)
        # Not in a tied matrix: longer output rows make their tokens more likely wherever logits are positive.
        if use is MatrixUse.INPUT and self.input_norms is not None:
            as_input = self.input_norms.rescaled(as_input, matrix_VD)
        if use is MatrixUse.INPUT or self.output_composition is None:
            yield from as_input
            return
        as_output = self.output_composition.in_chunks(matrix_VD)
        if use is MatrixUse.OUTPUT:
            yield from as_output
            return
        for (places, one), (_, other) in zip(as_input, as_output, strict=True):
            yield places, (one + other) / 2

    def check_made(self, new_RD: Tensor, name: str, old_VD: Tensor | None = None) -> None:
        """Refuse composed and mean rows that hold NaN or infinite numbers. Copied rows may hold them, as the old ones.

        Args:
            new_RD: the new rows.
            name: name of the tensor, for the message.
            old_VD: the old rows, to name the likely cause.

        Raises:
            NotFiniteError: there are such rows.
        """
        check_finite(new_RD, (self.origins != 0).nonzero().flatten(), name, old_VD)

    def _predict(
        self, new_RD: Tensor, matrix_VD: Tensor, is_finite_V: Tensor, use: MatrixUse, fit: Fit | None
    ) -> Fit | None:
        """Replace compositions in the new rows by predictions, of which a share of the composition may remain.

        Returns:
            The fit; None where there are too few examples, and the compositions remain.
        """
        assert self.regression is not None
        fit = fit or self.regression.fit(matrix_VD, is_finite_V)
        if fit is None:
            LOG.warning(NO_EXAMPLES)
            return None
        chunks = self.regression.predict(fit, matrix_VD)
        ids, share = self.regression.new_ids, self.regression.share_of_pieces(use)
        if share:
            has_pieces = torch.isin(ids, self._ids_with_pieces)
            share_N1 = (share * has_pieces.float())[:, None].to(new_RD.device)
            chunks = (
                (
                    places,
                    share_N1[places] * new_RD[ids[places].to(new_RD.device)].float() + (1 - share_N1[places]) * rows,
                )
                for places, rows in chunks
            )
        _put(new_RD, ids, chunks)
        return fit

    def explain(self, row: int, use: MatrixUse = MatrixUse.INPUT) -> list[tuple[int, float]]:
        """Return the old ids and weights that make a new row, heaviest first; empty for a mean row and a drawn row.

        For a predicted row these are the weights of the composition that stands in where no regression can be fitted.

        Args:
            row: the new row.
            use: INPUT or OUTPUT: the matrix whose weights are wanted.
        """
        if (self.unreachable_ids == row).any():
            return []
        if self.mapping.sources[row] >= 0:
            return [(int(self.mapping.sources[row]), 1.0)]
        place = (self.composed_ids == row).nonzero().flatten()
        composition = (self.output_composition if use is MatrixUse.OUTPUT else None) or self.composition
        return composition.row(int(place[0])) if len(place) else []

    def is_drawn(self, row: int) -> bool:
        """Return whether a new row is drawn from a distribution of the old rows."""
        return self.drawn is not None and bool((self.drawn.new_ids == row).any())


def _put(new_RD: Tensor, ids: Tensor, chunks: Iterable[tuple[slice, Tensor]]) -> None:
    """Write rows that come in chunks, as places among `ids` and rows, into the new matrix, in its dtype."""
    for places, rows in chunks:
        new_RD[ids[places].to(new_RD.device)] = rows.to(new_RD.dtype)
