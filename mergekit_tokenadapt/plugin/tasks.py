"""The tasks that take the place of mergekit's own in its graph."""

from __future__ import annotations

from typing import Any

import torch
from mergekit.common import ImmutableMap, ModelReference
from mergekit.graph import Task
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary
from mergekit.tokenizer.build import TokenizerInfo
from mergekit.vocabulary import vocabulary_views
from pydantic import ConfigDict

from mergekit_tokenadapt.output import AdaptedTokenizer, OutputFolder
from mergekit_tokenadapt.plan import TransferPlan
from mergekit_tokenadapt.transfer import Transfer


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


class AdaptVocabulary(PermutedVocabulary):  # type: ignore[misc]
    """Bring every model's vocabulary tensor onto the target vocabulary, by its own plan."""

    plans: ImmutableMap[ModelReference, PlanTransfer]
    fill_from: ModelReference | None = None
    """The model whose rows the others get for tokens that they do not have; None: those that are made."""

    def arguments(self) -> dict[str, Task[Any]]:
        """The tensors, and a plan for each model."""
        plans = {f"plan:{model}": plan for model, plan in self.plans.items()}
        return {"tensors": self.gather_tensors, **plans}

    def execute(
        self, tensors: dict[ModelReference, torch.Tensor], **plans: TransferPlan
    ) -> dict[ModelReference, torch.Tensor]:
        """Apply the plans: sums in float32, the results in the widest dtype of the inputs."""
        if not tensors:
            return {}
        views = vocabulary_views(list(tensors.values()), self.vocabulary_axis)
        dtype = views[0].dtype
        for view in views:
            dtype = torch.promote_types(dtype, view.dtype)
        adapted = {}
        for model, view in zip(tensors, views, strict=True):
            weight = self.gather_tensors.weight_info[model].name
            rows = plans[f"plan:{model}"].apply(view, weight).to(dtype)
            adapted[model] = rows
        if self.fill_from in adapted:
            for model in adapted.keys() - {self.fill_from}:
                missing = plans[f"plan:{model}"].missing_ids.to(adapted[model].device)
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
    folder: OutputFolder

    def arguments(self) -> dict[str, Task[Any]]:
        """The plan of each model."""
        return {f"plan_{n}": plan for n, plan in enumerate(self.plans)}

    def execute(self, **plans: TransferPlan) -> AdaptedTokenizerInfo:
        """Give the output folder its plans."""
        ordered = [plans[f"plan_{n}"] for n in range(len(self.plans))]
        return AdaptedTokenizerInfo(tokenizer=self.folder.with_plans(ordered), permutations={}, original_vocabs={})
