"""mergekit's planner, extended for recipes with an ``adapt`` block."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import ImmutableMap, ModelReference
from mergekit.config import ConfigReader, InputSliceDefinition, MergeConfiguration, OutputSliceDefinition
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel, LoadTensor, SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from mergekit.tokenizer import BuildTokenizer

from mergekit_tokenadapt.auxiliary import AuxiliarySpace
from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.pad_positions import PadMove
from mergekit_tokenadapt.models.written import check_written
from mergekit_tokenadapt.output import OutputFolder
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.output.requirements import config_content
from mergekit_tokenadapt.plugin.earlier_output import take_folder
from mergekit_tokenadapt.plugin.inputs import InputModel, check_hashes, check_together, look_at, read_by, references_of
from mergekit_tokenadapt.plugin.layer_lists import choose_layers
from mergekit_tokenadapt.plugin.positions import GatherMoved, check_lengths, move_of
from mergekit_tokenadapt.plugin.recipe import AdaptConfig
from mergekit_tokenadapt.plugin.reporting import report
from mergekit_tokenadapt.plugin.space import check_disk, check_memory
from mergekit_tokenadapt.plugin.stored import StoredTensors, all_stored, fits_configs, left_over, places, unneeded
from mergekit_tokenadapt.plugin.tasks import (
    AdaptVocabulary,
    FinishWithTokenizer,
    FitOutputRows,
    PlanTransfer,
)
from mergekit_tokenadapt.plugin.untying import untied_output
from mergekit_tokenadapt.plugin.values import check_values
from mergekit_tokenadapt.plugin.weights import KnownWeights
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.transfer.rows import choose_rows
from mergekit_tokenadapt.transfer.transfer import Transfer
from mergekit_tokenadapt.vocabulary_extension.target import Target, target_of

LOG = logging.getLogger(__name__)


class AdaptingPlanner(MergePlanner):  # type: ignore[misc]
    """Plans as mergekit does. With an ``adapt`` block, a task of this package adapts every vocabulary tensor as well.

    The inputs are checked here, because mergekit makes the output folder only afterwards.
    """

    understands_adapt = True
    _tokenizer_task: BuildTokenizer
    """mergekit's last task, which finishes the output folder."""
    _plans: ImmutableMap[ModelReference, PlanTransfer] | None = None
    """The task that makes the plan of each input model; None without an ``adapt`` block."""
    _corrections: ImmutableMap[ModelReference, FitOutputRows] = ImmutableMap({})
    """The task that fits the correction of each input model; empty without a calibration text."""
    _weights: KnownWeights
    """What is known about the input models' weights. It is set when `_plans` is."""
    _fills_rows: bool = False
    """Whether the base model gives the others its rows for missing tokens (`missing_rows: base_model`)."""
    _models: Mapping[ModelReference, InputModel] = MappingProxyType({})
    """The input models. The output gets its configs from the first."""
    _stored: StoredTensors = StoredTensors()
    """The tensors that are planned by their stored names."""
    _num_rows: int = 0
    """Number of rows of the new vocabulary tensors."""
    _unneeded: Collection[str] = ()
    """Names of weights that mergekit's definition lists but the models do not need."""
    _is_by_name: bool = False
    """Whether all tensors are planned by their stored names. Otherwise mergekit's definition of the architecture names
    the tensors, and only those that it leaves out are planned by their stored names."""

    def __init__(
        self,
        config: MergeConfiguration,
        arch_info: ModelArchitecture,
        options: MergeOptions,
        out_model_config: Any,
    ) -> None:
        super().__init__(config, arch_info, options, out_model_config)
        self._moves: dict[ModelReference, PadMove] = {}
        adapt: AdaptConfig | None = getattr(config.tokenizer, "adapt", None)
        if adapt is not None:
            self._prepare(adapt)

    def plan_tensor(
        self,
        weight: WeightInfo,
        weights_in: list[WeightInfo],
        models: list[ModelReference],
        cfg_reader: ConfigReader,
    ) -> None:
        """Plan one tensor as mergekit does. For a vocabulary tensor, replace mergekit's task by `AdaptVocabulary`."""
        # Slices may give a layer another number in the output.
        if all(each.name in self._unneeded for each in weights_in):
            return
        planned = len(self._tensors)
        if len(weights_in) != len(models):
            # mergekit counts the models of the first slice for a weight after the layers, which is that of the last.
            weights_in = weights_in[:1] * len(models)
        if self._plans is not None:
            weight, *weights_in = (
                self._weights.corrected(w, model)
                for w, model in zip((weight, *weights_in), (models[0], *models), strict=True)
            )
        super().plan_tensor(weight, weights_in, models, cfg_reader)
        if self._plans is None or len(self._tensors) == planned:
            return
        self._move_positions(weight)
        if weight.vocabulary_axis is None:
            return
        # A slice may name a base model of its own.
        fill_from = cfg_reader.base_model if self._fills_rows else None
        if self._fills_rows and fill_from not in models:
            raise TokenAdaptError(
                f"missing_rows: base_model takes rows of {fill_from or 'the base_model'}, which is none of the models "
                f"that {weight.name} is made of: add it to them, or set missing_rows: composed"
            )
        weight, merge = self._tensors[-1]
        stock = merge.gather_tensors
        fits = {m: self._weights.fit(w, m, stock.vocabulary_axis) for m, w in zip(models, weights_in, strict=True)}
        adapted = AdaptVocabulary(
            **{name: getattr(stock, name) for name in type(stock).model_fields},
            plans=ImmutableMap({model: self._plans[model] for model in models}),
            fits=ImmutableMap(fits),
            corrections=ImmutableMap(
                {model: self._corrections[model] for model in models}
                if self._corrections and self._weights.is_output(weights_in[0], models[0])
                else {}
            ),
            use=self._weights.use_of(weights_in[0], models[0]),
            is_per_layer=self._weights.is_per_layer(weights_in[0], models[0]),
            fill_from=fill_from,
        )
        self._tensors[-1] = (weight, merge.model_copy(update={"gather_tensors": adapted}))

    def plan_to_disk(self, out_path: str) -> list[Task[Any]]:
        """Plan all tensors. Those that are not merged are copied from the first model, bit for bit.

        Files of an earlier run are deleted.

        Raises:
            TokenAdaptError: the disk has too little space, or the folder holds something else.
        """
        tasks: list[Task[Any]] = super().plan_to_disk(out_path)
        if self._plans is not None:
            first, dtype = next(iter(self._models.values())), self.config.out_dtype or self.config.dtype
            check_disk(first, self._num_rows, Path(out_path), dtype)
            inputs, texts = read_by(self.config)
            take_folder(Path(out_path), [*inputs, *texts])
        if not self._stored.carried:
            return tasks
        end = next(n for n, task in enumerate(tasks) if isinstance(task, FinalizeModel))
        finalize = tasks[end]
        model = next(iter(self._models))
        saved = tuple(
            SaveTensor(
                tensor_name=name,
                tensor_task=LoadTensor(model=model, tensor=name),
                writer_task=finalize.writer_task,
                clone=self.options.clone_tensors,
            )
            for name in self._stored.carried
        )
        finalize = finalize.model_copy(update={"tensor_save_tasks": finalize.tensor_save_tasks + saved})
        return [*tasks[:end], *saved, finalize, *tasks[end + 1 :]]

    def _plan(self) -> None:
        """Plan the tensors of mergekit's definition, and then those that it leaves out; or plan all by stored names."""
        if not self._is_by_name:
            super()._plan()
        if self._plans is None:
            return
        self._plan_stored()
        inputs = [merge.gather_tensors for _, merge in self._tensors]
        adapted = [task for task in inputs if isinstance(task, AdaptVocabulary)]
        # The last task reports on the fits. Which ones there are is known only when all tensors are planned.
        fits = tuple(
            ImmutableMap({a.gather_tensors.weight_info[m].name: a.fits[m] for a in adapted if m in a.fits})
            for m in self._plans
        )
        self._tokenizer_task = self._tokenizer_task.model_copy(update={"fits": fits})

    def _plan_stored(self) -> None:
        """Plan the stored tensors that are not planned yet, by their stored names."""
        planned = {weight.name for weight, _ in self._tensors}
        weights = [w for w in self._stored.merged if w.name not in planned]
        if not weights:
            return
        sources = self._all_layers()
        models = [source.model for source in sources.sources]
        reader = ConfigReader(config=self.config, slice_out=sources, t=0)
        place = places(w.name for w in weights)
        for weight in weights:
            self.plan_tensor(weight, [weight] * len(models), models, reader.with_t(place[weight.name]))

    def _all_layers(self) -> OutputSliceDefinition:
        """Return one slice with all layers of all models, for tensors that are merged by name."""
        if not self._is_by_name:
            return next(iter(self.config.modules.values())).slices[0]
        # mergekit's own code for this takes the number of layers from its definition of the architecture, and there may
        # be no definition.
        base = self.config.base_model
        inputs = [(each.model, each.parameters) for each in self.config.models]
        inputs += [(base, None)] if base is not None and base not in [model for model, _ in inputs] else []
        self._method.validate_inputs([model for model, _ in inputs], base, group_name="models")
        return OutputSliceDefinition(
            sources=[
                InputSliceDefinition(layer_range=(0, 0), model=model, parameters=parameters)
                for model, parameters in inputs
            ]
        )

    def _prepare(self, adapt: AdaptConfig) -> None:
        """Read tokenizers and shapes, check the inputs, and make the tasks that plan, correct and finish.

        Raises:
            TokenAdaptError: an option or an input model cannot be used.
        """
        self._fills_rows = adapt.missing_rows == "base_model"
        if self._fills_rows and not any((self.config.base_model, *(s.base_model for s in self.config.slices or ()))):
            raise TokenAdaptError("missing_rows: base_model needs a base_model in the recipe")
        check_values(adapt, self.config, self.options)
        if slices := self.config.slices:
            choose_layers(self.out_model_config, slices, trust_remote_code=self.options.trust_remote_code)
        given = adapt.calibration_text
        text = None if given is None else CalibrationText.read(given, adapt.calibration_bytes)
        auxiliary = adapt.make_auxiliary()
        models = [look_at(reference, self.arch_info, self.options) for reference in references_of(self.config)]
        text = None if text is None else text.fitting(self._passage_limit(models))
        self._models = {model.reference: model for model in models}
        check_together(models)
        found = self._target(adapt, models[0])
        target = found.tokenizer
        rows = [(m.tokenizer, m.rows) for m in models]
        self._num_rows = num_rows = choose_rows(adapt.rows, rows, target, self.config.tokenizer.pad_to_multiple_of)
        check_memory(models[0], num_rows)
        target = target.with_rows(num_rows)
        self._plans = plans = self._plan_transfers(adapt, models, target, auxiliary)
        self._choose_names(models)
        untied_name = self._untie(models) if adapt.untie or _is_mixed(models) else None
        self._weights = KnownWeights(
            models=self._models,
            plans=plans,
            output_name=untied_name or models[0].output_name,
            untied_name=untied_name,
            dtype=self.config.dtype,
        )
        if text is not None:
            self._corrections = self._fit_output_rows(text, models)
        folder = OutputFolder(
            base=models[0].tokenizer,
            base_folder=models[0].own_files,
            target=target,
            extension=found.extension,
            num_rows=num_rows,
            vocab_size_keys=self._vocab_size_keys(models[0]),
            adapt=adapt.model_dump(mode="json"),
            stated=frozenset(adapt.model_fields_set),
            inputs=tuple((str(m.reference), m.folder) for m in models),
            cards=tuple(m.own_files for m in models),
            glossary=next(filter(None, (plan.transfer.glossary_record for plan in plans.values())), None),
            method_files=plans[models[0].reference].transfer.method.files,
            pad_move=self._moves.get(models[0].reference),
            config=self.out_model_config,
            trust_remote_code=self.options.trust_remote_code,
            last_look=check_written,
            when_finished=None if self.options.quiet else report,
        )
        folder.check(plans[models[0].reference].transfer.mapping)
        stock: BuildTokenizer = self._tokenizer_task
        self._tokenizer_task = FinishWithTokenizer(
            **{name: getattr(stock, name) for name in type(stock).model_fields},
            plans=tuple(plans.values()),
            corrections=tuple(self._corrections[model] for model in plans) if self._corrections else (),
            folder=folder,
        )

    def _passage_limit(self, models: list[InputModel]) -> int | None:
        """Return the most bytes of a passage that every input model can read; None for any number."""
        configs = [m.reference.config(trust_remote_code=self.options.trust_remote_code) for m in models]
        return passage_limit(*map(config_content, configs))

    def _move_positions(self, weight: WeightInfo) -> None:
        """If the tensor that was planned last is a position table, move its rows with the models' pad token ids.

        Such models number positions from the pad token's id, see `pad_positions`.

        Raises:
            TokenAdaptError: the tables of the models would have different lengths.
        """
        _, merge = self._tensors[-1]
        moves = {m: self._moves[m] for m in merge.model_order if m in self._moves and self._moves[m].moves(weight.name)}
        if moves:
            stock = merge.gather_tensors
            shapes = {m: self._models[m].shapes.get(w.name) for m, w in stock.weight_info.items()}
            check_lengths(weight.name, {m: shape[0] for m, shape in shapes.items() if shape is not None}, moves)
            fields = {name: getattr(stock, name) for name in type(stock).model_fields}
            moved = GatherMoved(**fields, moves=ImmutableMap(moves))
            self._tensors[-1] = (weight, merge.model_copy(update={"gather_tensors": moved}))

    def _plan_transfers(
        self, adapt: AdaptConfig, models: list[InputModel], target: TokenizerFiles, auxiliary: AuxiliarySpace | None
    ) -> ImmutableMap[ModelReference, PlanTransfer]:
        """Return the task that makes each model's plan. Set `_moves` for the models whose position tables move.

        Raises:
            TokenAdaptError: a model cannot get the target tokenizer, for a reason other than its rows.
        """
        plans = {}
        for model in models:
            transfer = Transfer.of(
                adapt,
                base=model.tokenizer,
                target=target,
                base_rows=model.rows,
                num_rows=self._num_rows,
                auxiliary=auxiliary,
                base_folder=str(model.folder),
                device=torch.device(self.options.device or "cpu"),
                quiet=self.options.quiet,
                trust_remote_code=self.options.trust_remote_code,
            )
            plans[model.reference] = PlanTransfer(transfer=transfer)
        for model in models:
            transfer = plans[model.reference].transfer
            if not transfer.mapping.is_identity:
                check_hashes(model)
            config = model.reference.config(trust_remote_code=self.options.trust_remote_code)
            if move := move_of(model.reference, config, transfer):
                self._moves[model.reference] = move
        return ImmutableMap(plans)

    def _choose_names(self, models: list[InputModel]) -> None:
        """Choose between mergekit's names of tensors and the stored ones; set `_is_by_name`, `_stored`, `_unneeded`.

        Stored names are complete, so one model is planned by them even if mergekit has a definition.

        Raises:
            TokenAdaptError: a model holds tensors that can be neither merged nor copied.
        """
        layers_stay = not self.config.slices and not self.config.modules
        configs = [m.reference.config(trust_remote_code=self.options.trust_remote_code) for m in models]
        has_definition = bool(self.arch_info.architectures) and fits_configs(self.arch_info, configs)
        self._is_by_name = layers_stay and (len(models) == 1 or not has_definition)
        if self._is_by_name:
            self._stored = all_stored(models, configs[0].model_type)
        elif has_definition:
            self._unneeded = unneeded(models, self.arch_info, configs)
            self._stored = left_over(
                models, self.arch_info, configs, layers_stay=layers_stay, may_lose=self.options.allow_crimes
            )

    def _vocab_size_keys(self, model: InputModel) -> tuple[str, ...]:
        """Return the keys of config.json that hold the number of rows; dots separate the levels."""
        if model.checkpoint is not None:
            return tuple(".".join(key) for key in model.checkpoint.size_keys)
        return (self.arch_info.vocab_size_config_key or "vocab_size",)

    def _fit_output_rows(
        self, text: CalibrationText, models: list[InputModel]
    ) -> ImmutableMap[ModelReference, FitOutputRows]:
        """Return the task that fits each input model's correction. All tasks read the same text.

        Raises:
            TokenAdaptError: the models have no output matrix.
        """
        if self._weights.output_name is None:
            raise TokenAdaptError("calibration_text needs a model with an output matrix; this architecture has none")
        assert self._plans is not None
        tasks = {}
        for model in models:
            fits = {
                name: self._weights.fit(WeightInfo(name=name), model.reference, table.axis)
                for name, table in model.tables.items()
            }
            tasks[model.reference] = FitOutputRows(
                plan=self._plans[model.reference],
                model=model.folder,
                text=text,
                stays_tied=self._weights.stays_tied,
                input_fit=fits.get(model.input_name or model.output_name or ""),
                output_fit=fits.get(model.output_name or ""),
                trust_remote_code=self.options.trust_remote_code,
            )
        return ImmutableMap(tasks)

    def _untie(self, models: list[InputModel]) -> str | None:
        """Let tied models get an output matrix of their own, and return its name; None if they are not tied."""
        first = models[0]
        if not first.is_tied:
            LOG.info("untie: the model's matrices are not tied")
            return None
        output = untied_output(models, self.arch_info, self.out_model_config)
        for each in (self.out_model_config, self.out_model_config.get_text_config()):
            each.tie_word_embeddings = False
        if self._is_by_name and output.name not in first.shapes:
            self._stored = replace(self._stored, merged=(*self._stored.merged, output))
        return str(output.name)

    def _target(self, adapt: AdaptConfig, base: InputModel) -> Target:
        """Read the tokenizer that `tokenizer.source` names, and extend the base's by it if the recipe says so."""
        source = self.config.tokenizer.source
        named = base.tokenizer
        if source != "base":
            named = load_tokenizer(
                source.model.path,
                revision=source.model.revision,
                trust_remote_code=self.options.trust_remote_code,
            )
        return target_of(adapt, named, base.tokenizer, base.folder)


def _is_mixed(models: list[InputModel]) -> bool:
    """Return whether the first model has one matrix for input and output, and another model has two. If so, warn.

    The merge then has two, and its config has to say so. Otherwise nobody could tell which of them is meant.
    """
    other = next((model for model in models if not model.is_tied), None)
    if other is None or not models[0].is_tied:
        return False
    LOG.warning(
        "%s has one matrix for input and output, and %s has two: the output gets two",
        models[0].reference,
        other.reference,
    )
    return True
