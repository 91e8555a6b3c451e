"""Facts about the weights of the input models that mergekit's definition of their architecture does not give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergekit.architecture import WeightInfo
from mergekit.common import ModelReference
from mergekit.io.tasks import LoadTensor

from mergekit_tokenadapt.plugin.inputs import InputModel, names_of
from mergekit_tokenadapt.plugin.tasks import FitRegression, PlanTransfer
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownWeights:
    """The stored names of weights, their vocabulary axes, and what the output model does with them."""

    models: Mapping[ModelReference, InputModel]
    """The input models. The output gets its configs from the first."""
    plans: Mapping[ModelReference, PlanTransfer]
    """The task that makes each input model's plan."""
    output_name: str | None
    """Name of the output matrix, which is the input matrix in a model that stays tied; None if there is none."""
    untied_name: str | None
    """Name of the output matrix that a tied model gets with `untie`; otherwise None."""
    dtype: str | None
    """The dtype in which mergekit loads tensors. With None it is the stored one."""

    @property
    def stays_tied(self) -> bool:
        """Whether the output model has one matrix for input and output."""
        return next(iter(self.models.values())).is_tied and self.untied_name is None

    def stored_name(self, weight: WeightInfo, model: ModelReference) -> str | None:
        """Return the name under which a model's checkpoint stores a weight; None if it does not store it."""
        return next((name for name in names_of(weight) if name in self.models[model].shapes), None)

    def corrected(self, weight: WeightInfo, model: ModelReference) -> WeightInfo:
        """Return mergekit's description of a weight, corrected by the model's class and by its checkpoint."""
        changes: dict[str, Any] = {}
        stored = self.stored_name(weight, model)
        known = self.models[model]
        if stored is None and known.is_tied and known.input_name is None and weight.vocabulary_axis is not None:
            # The model's only matrix stands under the name of the output matrix.
            changes["aliases"] = (*(weight.aliases or ()), *filter(None, [known.output_name]))
        if stored is not None and known.checkpoint is not None:
            table = known.tables.get(stored)
            changes["vocabulary_axis"] = table.axis if table is not None else None
        if weight.name == self.untied_name or (weight.tied_names and stored is not None and not self.stays_tied):
            # mergekit leaves an optional weight out if no checkpoint stores it. One that is not optional is read from
            # the tensor that it is tied to, and written.
            changes["optional"] = False
        return weight.model_copy(update=changes)

    def is_output(self, weight: WeightInfo, model: ModelReference) -> bool:
        """Return whether a weight is the output matrix, which is the input matrix in a tied model."""
        stored = self.stored_name(weight, model)
        if self.output_name in (weight.name, stored):
            return True
        # A tied matrix may be stored twice, under two of its names.
        known = self.models[model]
        table = known.tables.get(stored or "")
        return self.stays_tied and table is not None and known.is_matrix(table)

    def is_per_layer(self, weight: WeightInfo, model: ModelReference) -> bool:
        """Return whether a weight is a table per layer, see `AdaptVocabulary.is_per_layer`."""
        table = self.models[model].tables.get(self.stored_name(weight, model) or "")
        return table is not None and table.is_per_layer

    def use_of(self, weight: WeightInfo, model: ModelReference) -> MatrixUse:
        """Return what the output model does with a vocabulary tensor."""
        table = self.models[model].tables.get(weight.name)
        if not self.is_output(weight, model) and not (table is not None and table.is_output):
            return MatrixUse.INPUT
        return MatrixUse.TIED if self.stays_tied else MatrixUse.OUTPUT

    def fit(self, weight: WeightInfo, model: ModelReference, axis: int) -> FitRegression:
        """Return the task that fits a model's regression on a vocabulary tensor.

        Calls for the same stored tensor return equal tasks, which mergekit runs once.

        Args:
            weight: the tensor, described by mergekit or by its stored name.
            model: the model.
            axis: the tensor's vocabulary axis.
        """
        stored = self.stored_name(weight, model)
        tensor = LoadTensor(
            model=model,
            tensor=stored or weight.name,
            dtype=weight.force_dtype or self.dtype,
            # A tensor without a stored name is converted from other stored tensors. mergekit tries its aliases, too.
            aliases=None if stored else weight.aliases,
            optional=True,
        )
        return FitRegression(
            plan=self.plans[model],
            tensor=tensor,
            vocabulary_axis=axis,
            is_per_layer=self.is_per_layer(weight, model),
        )
