"""Plan tensors by their names in the checkpoint.

mergekit plans a merge from a definition of the architecture. Without a definition it infers one, which leaves out
tensors that are not in every layer. With a definition, a checkpoint may still have more tensors. If layers keep their
places, the checkpoint itself is therefore the better plan: each tensor is merged with the tensors of the same name.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mergekit.architecture import ModelArchitecture, WeightInfo

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.vocabulary_axes import BUFFERS
from mergekit_tokenadapt.plugin.conversion import sources_of
from mergekit_tokenadapt.plugin.inputs import FLOATS, InputModel, listing, names_of

LOG = logging.getLogger(__name__)

LAYER = re.compile(r"\.(\d+)\.")
"""Matches a layer's number in a tensor's name."""


@dataclass(frozen=True)
class StoredTensors:
    """Tensors that are planned by name."""

    merged: tuple[WeightInfo, ...] = ()
    """Tensors that the recipe's method merges."""
    carried: tuple[str, ...] = ()
    """Names of tensors that are copied from the first model: buffers, and tensors whose values cannot be averaged."""


def fits_configs(architecture: ModelArchitecture, configs: Sequence[object]) -> bool:
    """Return whether the configs have the keys that mergekit's definition reads. Newer ones nest them (Qwen2-VL)."""
    try:
        for config in configs:
            architecture.all_weights(config)
    except RuntimeError as error:
        LOG.info("mergekit's definition of the architecture does not fit its config: %s", error)
        return False
    return True


def all_stored(models: Sequence[InputModel], model_type: str | None) -> StoredTensors:
    """Plan every tensor of the first model, to be merged with the tensors of the other models.

    Raises:
        TokenAdaptError: a model has tensors that another model neither has nor can convert from its own.
    """
    first, *others = models
    carried = [name for name in first.shapes if _is_carried(first, name)]
    merged = [name for name in first.shapes if name not in carried]
    for other in others:
        _check_same(first, other, merged, model_type)
    return StoredTensors(tuple(_weight(first, name) for name in merged), tuple(carried))


def left_over(
    models: Sequence[InputModel],
    architecture: ModelArchitecture,
    configs: Sequence[object],
    *,
    layers_stay: bool,
    may_lose: bool = False,
) -> StoredTensors:
    """Plan the tensors that mergekit's definition of the architecture leaves out.

    Args:
        models: the input models.
        architecture: mergekit's definition.
        configs: configs of the models.
        layers_stay: whether every layer of the output comes from the layers with the same number in all inputs.
        may_lose: leave out tensors that cannot be merged by name, with a warning.

    Raises:
        TokenAdaptError: some of these tensors cannot be merged by name, and `may_lose` is false.
    """
    rest = [_unplanned(model, architecture, config) for model, config in zip(models, configs, strict=True)]
    first = models[0]
    carried = [name for name in rest[0] if _is_carried(first, name)]
    wanted = [[name for name in names if not _is_carried(m, name)] for m, names in zip(models, rest, strict=True)]
    lost = {name for name, count in Counter(n for names in wanted for n in names).items() if count < len(models)}
    lost |= set() if layers_stay else {name for names in wanted for name in names}
    if lost:
        holder = next(m for m, names in zip(models, wanted, strict=True) if lost & set(names))
        why = "not all models hold them" if layers_stay else "the recipe has slices or modules"
        message = (
            f"{holder.reference}: mergekit's definition of the architecture leaves out {len(lost)} of its tensors "
            f"({listing(lost)}), and they cannot be merged by name, because {why}"
        )
        if not may_lose:
            raise TokenAdaptError(f"{message}; to leave them out: --allow-crimes")
        LOG.warning("%s: they are left out", message)
    merged = [name for name in wanted[0] if name not in lost]
    return StoredTensors(tuple(_weight(first, name) for name in merged), tuple(carried) if layers_stay else ())


def places(names: Iterable[str]) -> dict[str, float]:
    """Return the position of each tensor between the first layer (0) and the last (1), as mergekit counts for
    gradients.
    """
    names = list(names)
    layers = {name: match for name in names if (match := LAYER.search(name))}
    last: dict[str, int] = {}
    for name, match in layers.items():
        before = name[: match.start()]
        last[before] = max(last.get(before, 0), int(match[1]))

    def place(name: str) -> float:
        if name not in layers:
            return 0
        highest = last[name[: layers[name].start()]]
        return int(layers[name][1]) / highest if highest else 1

    return {name: place(name) for name in names}


def unneeded(models: Sequence[InputModel], architecture: ModelArchitecture, configs: Sequence[object]) -> set[str]:
    """Return the tensors that mergekit's definition asks for although no model has them and no model's class misses
    them.
    """
    wanted = [_absent(model, architecture, config) for model, config in zip(models, configs, strict=True)]
    are_complete = all(m.checkpoint is not None and not m.checkpoint.loading.missing for m in models)
    return set.intersection(*wanted) if are_complete else set()


def _is_carried(model: InputModel, name: str) -> bool:
    """Return whether a tensor cannot be merged: a counter, a mask, ids, or a buffer that the model computes itself."""
    return model.dtypes[name] not in FLOATS or (name.endswith(BUFFERS) and name not in model.tables)


def _weight(model: InputModel, name: str) -> WeightInfo:
    """Describe a tensor for mergekit's planner. In other models the output matrix may be stored as the input matrix."""
    table = model.tables.get(name)
    tied = (model.input_name,) if table is not None and table.is_output else ()
    return WeightInfo(
        name=name,
        vocabulary_axis=table.axis if table is not None else None,
        tied_names=tuple(other for other in tied if other is not None and other != name) or None,
    )


def _check_same(first: InputModel, other: InputModel, merged: Sequence[str], model_type: str | None) -> None:
    """Check that two models have the same tensors.

    Raises:
        TokenAdaptError: one has tensors that the other neither has nor can convert from its own.
    """
    absent = {name for name in merged if not any(n in other.shapes for n in names_of(_weight(first, name)))}
    sources = sources_of(model_type, other.shapes, absent)
    used = {source for names in sources.values() for source in names}
    extra = {
        name
        for name in other.shapes.keys() - first.shapes.keys() - used
        if not _is_carried(other, name) and not _is_made(name, first, other)
    }
    for names, holder, lacking in ((absent - sources.keys(), first, other), (extra, other, first)):
        if names:
            raise TokenAdaptError(
                f"{holder.reference} holds tensors that {lacking.reference} does not ({listing(names)}), and mergekit "
                "has no definition of the architecture that tells how to merge them"
            )


def _is_made(name: str, first: InputModel, other: InputModel) -> bool:
    """Whether the output has a vocabulary tensor of `other` that `first` lacks, because `first` or `other` is tied."""
    table = other.tables.get(name)
    return table is not None and (other.is_tied or (first.is_tied and table.is_output))


def _unplanned(model: InputModel, architecture: ModelArchitecture, config: object) -> list[str]:
    """Return the stored tensors that mergekit's definition neither names nor converts into a tensor that it names."""
    known = architecture.all_weights(config)
    planned = {name for weight in known for name in names_of(weight)}
    used = {source for names in _made(model, known, config).values() for source in names}
    return [name for name in model.shapes if name not in planned | used]


def _absent(model: InputModel, architecture: ModelArchitecture, config: object) -> set[str]:
    """Return mergekit's weights that a model neither has nor can convert from its own tensors."""
    known = architecture.all_weights(config)
    return _not_stored(model, known) - _made(model, known, config).keys()


def _not_stored(model: InputModel, known: Sequence[WeightInfo]) -> set[str]:
    return {weight.name for weight in known if not any(name in model.shapes for name in names_of(weight))}


def _made(model: InputModel, known: Sequence[WeightInfo], config: object) -> dict[str, set[str]]:
    """Return mergekit's weights that it converts from stored tensors, and these tensors."""
    planned = {name for weight in known for name in names_of(weight)}
    rest = model.shapes.keys() - planned
    return sources_of(getattr(config, "model_type", None), rest, _not_stored(model, known))
