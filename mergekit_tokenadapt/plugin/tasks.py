"""The tasks that take the place of mergekit's own in its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mergekit.common import ImmutableMap, ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoadTensor
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary
from mergekit.tokenizer.build import TokenizerInfo
from mergekit.vocabulary import vocabulary_views
from pydantic import ConfigDict

from mergekit_tokenadapt.correction import CalibrationText, Correction, correct_output_rows
from mergekit_tokenadapt.models.vocabulary_axes import with_first_row
from mergekit_tokenadapt.output import AdaptedTokenizer, OutputFolder
from mergekit_tokenadapt.transfer.finite_rows import NotFiniteError
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import Fit
from mergekit_tokenadapt.transfer.transfer import Transfer


class PlanTransfer(Task[TransferPlan]):  # type: ignore[misc]
    """Work out how the rows of one input model are made."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    transfer: Transfer

    def arguments(self) -> dict[str, Task[Any]]:
        """Nothing: a plan is made without weights."""
        return {}

    def execute(self, **_kwargs: Any) -> TransferPlan:
        """Make the plan on the transfer's device."""
        return self.transfer.make_plan()

    def main_thread_only(self) -> bool:
        """Embedding models and progress bars do not share threads gladly."""
        return True


class FitRegression(Task[Fit | None]):  # type: ignore[misc]
    """Fit the plan's regression on one vocabulary tensor of one model.

    This is a task of its own, so that a fit that is needed more than once is made once: tasks with equal fields are
    one node of mergekit's graph. A tied model's matrix and the output matrix that `untie` makes of it share a fit, and
    so do the reading of a calibration text and the merge. The tensor is read here and let go at the end, because a
    node for it would stay in memory while a calibration text is read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plan: PlanTransfer
    tensor: LoadTensor
    vocabulary_axis: int
    is_per_layer: bool = False
    """See `AdaptVocabulary`."""

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan."""
        return {"plan": self.plan}

    def execute(self, plan: TransferPlan) -> Fit | None:
        """Fit on the transfer's device. None where the plan has no regression, or too few examples, or no tensor."""
        tensor = self.tensor.execute() if plan.regression is not None else None
        if tensor is None:
            return None
        view = vocabulary_views([tensor], self.vocabulary_axis)[0]
        if self.is_per_layer:
            view = with_first_row(view, self.plan.transfer.base_rows)
        return plan.fit(view.to(self.plan.transfer.device))

    def main_thread_only(self) -> bool:
        """One tensor in memory at a time. And where there are several GPUs, no fit ties two tensors to one of them."""
        return True


class FitOutputRows(Task[Correction | None]):  # type: ignore[misc]
    """Read a text with one input model, before and after its transfer, and fit a correction of its output rows.

    A model that speaks the target tokenizer already gets none: its rows are right as they are.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plan: PlanTransfer
    model: Path
    text: CalibrationText
    stays_tied: bool
    input_fit: FitRegression | None
    """On the model's input matrix; None where it is not stored under a name of its own."""
    output_fit: FitRegression | None
    """On its output matrix; likewise."""
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan, and the fits of its regression."""
        fits = {"input_fit": self.input_fit, "output_fit": self.output_fit}
        return {"plan": self.plan, **{name: fit for name, fit in fits.items() if fit is not None}}

    def execute(
        self, plan: TransferPlan, input_fit: Fit | None = None, output_fit: Fit | None = None
    ) -> Correction | None:
        """Read and fit, on the transfer's device."""
        if plan.mapping.is_identity:
            return None
        return correct_output_rows(
            self.model,
            self.plan.transfer,
            plan,
            self.text,
            stays_tied=self.stays_tied,
            input_fit=input_fit,
            output_fit=output_fit,
            trust_remote_code=self.trust_remote_code,
        )

    def main_thread_only(self) -> bool:
        """One model and one progress bar at a time."""
        return True


class AdaptVocabulary(PermutedVocabulary):  # type: ignore[misc]
    """Bring every model's vocabulary tensor onto the target vocabulary, by its own plan."""

    plans: ImmutableMap[ModelReference, PlanTransfer]
    fits: ImmutableMap[ModelReference, FitRegression]
    corrections: ImmutableMap[ModelReference, FitOutputRows]
    """For the output matrix where there is a calibration text; otherwise empty."""
    use: MatrixUse = MatrixUse.INPUT
    is_per_layer: bool = False
    """Whether it may have fewer rows than the vocabulary; the model takes row 0 for the other ids."""
    fill_from: ModelReference | None = None
    """The model whose rows the others get for tokens that they do not have; None: the rows that the plan makes."""

    def arguments(self) -> dict[str, Task[Any]]:
        """The tensors, and for each model a plan, the fit of its regression, and perhaps a correction."""
        plans = {f"plan:{model}": plan for model, plan in self.plans.items()}
        fits = {f"fit:{model}": fit for model, fit in self.fits.items()}
        corrections = {f"correction:{model}": correction for model, correction in self.corrections.items()}
        return {"tensors": self.gather_tensors, **plans, **fits, **corrections}

    def execute(self, tensors: dict[ModelReference, torch.Tensor], **made: Any) -> dict[ModelReference, torch.Tensor]:
        """Apply plans and corrections: sums in float32, the results in the widest dtype of the inputs.

        Raises:
            TokenAdaptError: rows that were made are not finite.
        """
        if not tensors:
            return {}
        views = vocabulary_views(list(tensors.values()), self.vocabulary_axis)
        dtype = views[0].dtype
        for view in views:
            dtype = torch.promote_types(dtype, view.dtype)
        adapted = {}
        for model, view in zip(tensors, views, strict=True):
            weight = self.gather_tensors.weight_info[model].name
            plan: TransferPlan = made[f"plan:{model}"]
            if self.is_per_layer:
                view = with_first_row(view, self.plans[model].transfer.base_rows)
            try:
                rows = plan.apply(view, weight, self.use, fit=made[f"fit:{model}"]).rows
                if (correction := made.get(f"correction:{model}")) is not None:
                    rows = correction.apply(rows, plan.origins)
                    plan.check_made(rows, weight)
            except NotFiniteError as error:
                token = self.plans[model].transfer.target.vocabulary.by_id.get(int(error.rows[0]))
                raise error if token is None else error.with_token(token.spelling) from error
            adapted[model] = rows.to(dtype)
        if self.fill_from in adapted:
            for model in adapted.keys() - {self.fill_from}:
                missing = made[f"plan:{model}"].missing_ids.to(adapted[model].device)
                adapted[model][missing] = adapted[self.fill_from][missing]
        return {m: rows.movedim(0, self.vocabulary_axis).contiguous() for m, rows in adapted.items()}

    def uses_accelerator(self) -> bool:
        """Gathering and adding rows is what accelerators are good at."""
        return True

    def group_label(self) -> str | None:
        """Stay with the tensors that are adapted."""
        label: str | None = self.gather_tensors.group_label()
        return label


class AdaptedTokenizerInfo(TokenizerInfo):  # type: ignore[misc]
    """What mergekit's last step gets for a tokenizer: it only sizes and saves it."""

    tokenizer: AdaptedTokenizer


class FinishWithTokenizer(BuildTokenizer):  # type: ignore[misc]
    """Hand the finishing of the output folder to mergekit's last step."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plans: tuple[PlanTransfer, ...]
    corrections: tuple[FitOutputRows, ...] = ()
    fits: tuple[ImmutableMap[str, FitRegression], ...] = ()
    """For each model, by tensor name; known when all tensors are planned."""
    folder: OutputFolder

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan of each model, its correction where there are any, and the fits of its regression."""
        plans = {f"plan_{n}": plan for n, plan in enumerate(self.plans)}
        corrections = {f"correction_{n}": correction for n, correction in enumerate(self.corrections)}
        fits = {f"fit_{n}:{name}": fit for n, by_name in enumerate(self.fits) for name, fit in by_name.items()}
        return {**plans, **corrections, **fits}

    def execute(self, **made: Any) -> AdaptedTokenizerInfo:
        """Give the output folder what was made."""
        plans = [made[f"plan_{n}"] for n in range(len(self.plans))]
        corrections = [made[f"correction_{n}"] for n in range(len(self.corrections))]
        reports = [correction.report if correction else None for correction in corrections]
        fits = [
            {name: fit.report for name in by_name if (fit := made[f"fit_{n}:{name}"]) is not None}
            for n, by_name in enumerate(self.fits)
        ]
        return AdaptedTokenizerInfo(
            tokenizer=self.folder.with_plans(plans, reports, fits), permutations={}, original_vocabs={}
        )
