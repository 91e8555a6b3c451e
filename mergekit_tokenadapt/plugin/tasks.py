"""The tasks of this package in mergekit's task graph. Some replace tasks of mergekit."""

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
    """Make the plan of the new rows of one input model."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    transfer: Transfer

    def arguments(self) -> dict[str, Task[Any]]:
        """Return no tasks: a plan needs no weights."""
        return {}

    def execute(self, **_kwargs: Any) -> TransferPlan:
        """Make the plan on the transfer's device."""
        return self.transfer.make_plan()

    def main_thread_only(self) -> bool:
        """Return True: embedding models and progress bars do not work in several threads at a time."""
        return True


class FitRegression(Task[Fit | None]):  # type: ignore[misc]
    """Fit the plan's regression on one vocabulary tensor of one model.

    mergekit runs tasks with equal fields once. As a task of its own, a fit that is needed several times is therefore
    made once. The matrix of a tied model and the output matrix that `untie` makes of it share a fit. So do the reading
    of a calibration text and the merge.

    The tensor is read inside this task and freed at its end. If a task of the graph read it, mergekit would keep it in
    memory while a calibration text is read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plan: PlanTransfer
    tensor: LoadTensor
    vocabulary_axis: int
    is_per_layer: bool = False
    """See `AdaptVocabulary.is_per_layer`."""

    def arguments(self) -> dict[str, Task[Any]]:
        """Return the task that makes the plan."""
        return {"plan": self.plan}

    def execute(self, plan: TransferPlan) -> Fit | None:
        """Fit on the transfer's device. Return None if the plan has no regression or too few examples, or the model
        does not store the tensor.
        """
        tensor = self.tensor.execute() if plan.regression is not None else None
        if tensor is None:
            return None
        view = vocabulary_views([tensor], self.vocabulary_axis)[0]
        if self.is_per_layer:
            view = with_first_row(view, self.plan.transfer.base_rows)
        return plan.fit(view.to(self.plan.transfer.device))

    def main_thread_only(self) -> bool:
        """Return True, so that one tensor at a time is in memory. With several GPUs, a fit that two tensors share would
        otherwise assign both to one GPU.
        """
        return True


class FitOutputRows(Task[Correction | None]):  # type: ignore[misc]
    """Read a text with one input model, before and after its transfer, and fit a correction of its output rows.

    A model that already has the target tokenizer needs no correction.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plan: PlanTransfer
    model: Path
    text: CalibrationText
    stays_tied: bool
    input_fit: FitRegression | None
    """The fit on the model's input matrix; None if the matrix is not stored under a name of its own."""
    output_fit: FitRegression | None
    """The fit on the model's output matrix; None as above."""
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Task[Any]]:
        """Return the tasks that make the plan and the fits of its regression."""
        fits = {"input_fit": self.input_fit, "output_fit": self.output_fit}
        return {"plan": self.plan, **{name: fit for name, fit in fits.items() if fit is not None}}

    def execute(
        self, plan: TransferPlan, input_fit: Fit | None = None, output_fit: Fit | None = None
    ) -> Correction | None:
        """Read the text and fit the correction on the transfer's device. Return None if none is needed."""
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
        """Return True, so that one model at a time is in memory, and one progress bar is shown."""
        return True


class AdaptVocabulary(PermutedVocabulary):  # type: ignore[misc]
    """Make every model's vocabulary tensor for the target vocabulary, by the model's plan."""

    plans: ImmutableMap[ModelReference, PlanTransfer]
    fits: ImmutableMap[ModelReference, FitRegression]
    corrections: ImmutableMap[ModelReference, FitOutputRows]
    """The corrections of the output matrix with a calibration text; empty for other tensors or without a text."""
    use: MatrixUse = MatrixUse.INPUT
    """What the output model does with the tensor."""
    is_per_layer: bool = False
    """Whether the tensor is a table per layer. Such a table may have fewer rows than the vocabulary, and the model then
    uses row 0 for the other ids."""
    fill_from: ModelReference | None = None
    """The model whose rows the others get for tokens that they lack. With None they get the rows of their plans."""

    def arguments(self) -> dict[str, Task[Any]]:
        """Return the tasks that read the tensors, and each model's plan, fit and correction (if it has one)."""
        plans = {f"plan:{model}": plan for model, plan in self.plans.items()}
        fits = {f"fit:{model}": fit for model, fit in self.fits.items()}
        corrections = {f"correction:{model}": correction for model, correction in self.corrections.items()}
        return {"tensors": self.gather_tensors, **plans, **fits, **corrections}

    def execute(self, tensors: dict[ModelReference, torch.Tensor], **made: Any) -> dict[ModelReference, torch.Tensor]:
        """Apply plans and corrections. Sums are computed in float32; results have the widest dtype of the inputs.

        Raises:
            TokenAdaptError: a new row is not finite.
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
        """Return True: accelerators gather and add rows faster than CPUs."""
        return True

    def group_label(self) -> str | None:
        """Return the label of the task that reads the tensors, so that mergekit runs both tasks together."""
        label: str | None = self.gather_tensors.group_label()
        return label


class AdaptedTokenizerInfo(TokenizerInfo):  # type: ignore[misc]
    """The tokenizer in the form that mergekit's last task expects. That task only asks for its size and saves it."""

    tokenizer: AdaptedTokenizer


class FinishWithTokenizer(BuildTokenizer):  # type: ignore[misc]
    """Replaces mergekit's task that builds the tokenizer. The tokenizer that it returns finishes the output folder."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plans: tuple[PlanTransfer, ...]
    corrections: tuple[FitOutputRows, ...] = ()
    fits: tuple[ImmutableMap[str, FitRegression], ...] = ()
    """The fits of each model, by tensor name. They are set when all tensors are planned."""
    folder: OutputFolder
    """Writes the files beside the weights."""

    def arguments(self) -> dict[str, Task[Any]]:
        """Return the tasks that make each model's plan, fits and correction (if there is a calibration text)."""
        plans = {f"plan_{n}": plan for n, plan in enumerate(self.plans)}
        corrections = {f"correction_{n}": correction for n, correction in enumerate(self.corrections)}
        fits = {f"fit_{n}:{name}": fit for n, by_name in enumerate(self.fits) for name, fit in by_name.items()}
        return {**plans, **corrections, **fits}

    def execute(self, **made: Any) -> AdaptedTokenizerInfo:
        """Return a tokenizer that knows the plans and the reports of corrections and fits."""
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
