"""The tasks that take the place of mergekit's own in its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mergekit.common import ImmutableMap, ModelReference
from mergekit.graph import Task
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary
from mergekit.tokenizer.build import TokenizerInfo
from mergekit.vocabulary import vocabulary_views
from pydantic import ConfigDict

from mergekit_tokenadapt.correction import CalibrationText, Correction, correct_output_rows
from mergekit_tokenadapt.models.vocabulary_axes import with_first_row
from mergekit_tokenadapt.output import AdaptedTokenizer, OutputFolder
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import NotFiniteError, TransferPlan
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


class FitOutputRows(Task[Correction | None]):  # type: ignore[misc]
    """Read a text with one input model, before and after its transfer, and fit a correction of its output rows.

    A model that speaks the target tokenizer already gets none: its rows are right as they are.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    plan: PlanTransfer
    model: Path
    text: CalibrationText
    stays_tied: bool
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan."""
        return {"plan": self.plan}

    def execute(self, plan: TransferPlan) -> Correction | None:
        """Read and fit, on the transfer's device."""
        if plan.mapping.is_identity:
            return None
        return correct_output_rows(
            self.model,
            self.plan.transfer,
            plan,
            self.text,
            stays_tied=self.stays_tied,
            trust_remote_code=self.trust_remote_code,
        )

    def main_thread_only(self) -> bool:
        """One model and one progress bar at a time."""
        return True


class AdaptVocabulary(PermutedVocabulary):  # type: ignore[misc]
    """Bring every model's vocabulary tensor onto the target vocabulary, by its own plan."""

    plans: ImmutableMap[ModelReference, PlanTransfer]
    corrections: ImmutableMap[ModelReference, FitOutputRows]
    """For the output matrix where there is a calibration text; otherwise empty."""
    use: MatrixUse = MatrixUse.INPUT
    is_per_layer: bool = False
    """Whether it may have fewer rows than the vocabulary; the model takes row 0 for the other ids."""
    fill_from: ModelReference | None = None
    """The model whose rows the others get for tokens that they do not have; None: those that are made."""

    def arguments(self) -> dict[str, Task[Any]]:
        """The tensors, and for each model a plan and perhaps a correction."""
        plans = {f"plan:{model}": plan for model, plan in self.plans.items()}
        corrections = {f"correction:{model}": correction for model, correction in self.corrections.items()}
        return {"tensors": self.gather_tensors, **plans, **corrections}

    def execute(self, tensors: dict[ModelReference, torch.Tensor], **made: Any) -> dict[ModelReference, torch.Tensor]:
        """Apply plans and corrections: sums in float32, the results in the widest dtype of the inputs."""
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
            rows = self._new_rows(model, view, weight, plan, made.get(f"correction:{model}"))
            adapted[model] = rows.to(dtype)
        if self.fill_from in adapted:
            for model in adapted.keys() - {self.fill_from}:
                missing = made[f"plan:{model}"].missing_ids.to(adapted[model].device)
                adapted[model][missing] = adapted[self.fill_from][missing]
        return {m: rows.movedim(0, self.vocabulary_axis).contiguous() for m, rows in adapted.items()}

    def _new_rows(
        self, model: ModelReference, old: torch.Tensor, weight: str, plan: TransferPlan, correction: Correction | None
    ) -> torch.Tensor:
        """One model's rows of the target vocabulary.

        Raises:
            TokenAdaptError: rows that were made are not finite.
        """
        try:
            rows = plan.apply(old, weight, self.use)
            if correction is None:
                return rows
            rows = correction.apply(rows, plan.origins)
            plan.check_made(rows, weight)
            return rows
        except NotFiniteError as error:
            token = self.plans[model].transfer.target.vocabulary.by_id.get(int(error.rows[0]))
            raise error if token is None else error.with_token(token.spelling) from error

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
    folder: OutputFolder

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan of each model, and its correction where there are any."""
        plans = {f"plan_{n}": plan for n, plan in enumerate(self.plans)}
        return plans | {f"correction_{n}": correction for n, correction in enumerate(self.corrections)}

    def execute(self, **made: Any) -> AdaptedTokenizerInfo:
        """Give the output folder what was made."""
        plans = [made[f"plan_{n}"] for n in range(len(self.plans))]
        corrections = [made[f"correction_{n}"] for n in range(len(self.corrections))]
        reports = [correction.report if correction else None for correction in corrections]
        return AdaptedTokenizerInfo(
            tokenizer=self.folder.with_plans(plans, reports), permutations={}, original_vocabs={}
        )
