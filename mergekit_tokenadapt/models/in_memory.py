"""A loaded model of transformers with vocabulary tensors of another size, in place.

What has to change with the number of rows is asked of the model's class, as for a checkpoint: it is built without
memory from the old and from the new config, and every number that differs between the two is set in the loaded model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.classes import ModelClass, nested_configs
from mergekit_tokenadapt.models.vocabulary_axes import Key, VocabularyTables, copies_of_sizes, find_tables

Change = tuple[Key, Any]
"""Where a value is in a config, and what it becomes."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model of transformers in memory, and what its class says of its vocabulary tensors."""

    model: Any
    tables: VocabularyTables
    size_keys: tuple[Key, ...]
    """All keys of the config that say how many rows there are, as paths."""
    tensors: Mapping[str, Tensor]
    """Parameters and buffers with a vocabulary axis, tied ones under all their names."""

    @classmethod
    def of(cls, model: Any) -> LoadedModel:
        """Ask the model's class.

        Raises:
            TokenAdaptError: it is no such model, is quantised, or is not in memory; or its tensors are not those that
                its class has for its config.
        """
        _check_kind(model)
        asked = ModelClass(type(model).__name__, copy.deepcopy(model.config), type(model)).with_any_pad()
        loading = asked.load({})
        tables = find_tables(asked, loading)
        held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        missing = sorted(tables.axes.keys() - held.keys())
        if missing:
            raise TokenAdaptError(f"the model holds no {missing[0]}: take adapters off, or merge them, before adapting")
        loaded = cls(
            model,
            tables,
            (*tables.sizes, *copies_of_sizes(asked, loading, tables)),
            {name: held[name] for name in tables.axes},
        )
        loaded._check_tensors()
        return loaded

    @cached_property
    def config(self) -> Any:
        """Its config as it would be saved: with the name of its class, which others ask for."""
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]
        return config

    @property
    def rows(self) -> int:
        """Rows of its vocabulary tensors."""
        return min(
            self.tensors[n].shape[axis] for n, axis in self.tables.axes.items() if n not in self.tables.per_layer
        )

    def groups(self) -> list[list[str]]:
        """The names of each vocabulary tensor: several where it is tied."""
        found: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            found.setdefault(id(tensor), []).append(name)
        return list(found.values())

    def _check_tensors(self) -> None:
        for name, tensor in self.tensors.items():
            if tensor.is_meta:
                raise TokenAdaptError(f"{name} is not in memory: load the model whole, or use transplant()")
            if not tensor.is_floating_point():
                raise TokenAdaptError(f"{name} is {tensor.dtype}, no floating-point type to compute rows in")
        output = self.tables.output
        is_tied = output is not None and self.tensors[output] is self.tensors[self.tables.input]
        if is_tied != self.tables.is_tied:
            says, are = ("are tied", "are not") if self.tables.is_tied else ("are not tied", "are")
            raise TokenAdaptError(f"the model's config says that input and output matrix {says}, but they {are}")

    def change(self, changes: list[Change], made: Mapping[str, Tensor], groups: list[list[str]]) -> None:
        """Put new values into the config and new tensors into the model, all or nothing.

        Args:
            changes: to the config.
            made: the new tensors, by one of their names.
            groups: the names that share a tensor.

        Raises:
            TokenAdaptError: the class has tensors of other shapes for the new config; nothing is changed then.
        """
        before = self._built(self.model.config)
        config = copy.deepcopy(self.model.config)
        set_values(config, changes)
        after = self._built(config)
        wanted = {name: tuple(tensor.shape) for name, tensor in after.state_dict().items()}
        for group in groups:
            for name in group:
                if wanted.get(name, tuple(made[group[0]].shape)) != tuple(made[group[0]].shape):
                    raise TokenAdaptError(
                        f"{name} would have the shape {tuple(made[group[0]].shape)}, not {wanted[name]}"
                    )
        for each in self._configs():
            set_values(each, changes)
        for group in groups:
            self._put(group, made[group[0]])
        _copy_numbers(before, after, self.model)

    def _built(self, config: Any) -> Any:
        try:
            with torch.device("meta"):
                return type(self.model)._from_config(copy.deepcopy(config))
        except Exception as error:  # the class's own code runs here, and may raise anything
            raise TokenAdaptError(f"{type(self.model).__name__} cannot be built: {first_line(error)[:200]}") from error

    def _configs(self) -> list[Any]:
        """The model's config, and copies of it that parts of the model keep."""
        own = self.model.config
        found = {id(own): own}
        for module in self.model.modules():
            config = getattr(module, "config", None)
            if type(config) is type(own):
                found[id(config)] = config
        return list(found.values())

    def _put(self, names: list[str], rows: Tensor) -> None:
        """One new tensor under all its names."""
        old = self.tensors[names[0]]
        is_parameter = isinstance(old, nn.Parameter)
        new = nn.Parameter(rows, requires_grad=old.requires_grad) if is_parameter else rows
        for name in names:
            holder, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(holder), leaf, new)


def untying(config: Any) -> Iterator[Change]:
    """The changes to a config after which input and output matrix are two."""
    text = config.get_text_config()
    for path, each in nested_configs(config):
        if each is config or each is text:
            yield (*path, "tie_word_embeddings"), False


def set_values(config: Any, changes: list[Change]) -> None:
    """Set values of a config and of those in it, in place.

    Raises:
        TokenAdaptError: a value is in a list of configs.
    """
    for (*path, name), value in changes:
        section = config
        for key in path:
            section = section[key] if isinstance(section, dict) else getattr(section, key)
        if isinstance(section, list):
            raise TokenAdaptError(f"{'.'.join((*path, name))} is in a list of configs: use transplant()")
        if isinstance(section, dict):
            section[name] = value
        else:
            setattr(section, name, value)


def _check_kind(model: Any) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TokenAdaptError(f"adapt() takes a model of transformers, not {type(model).__name__}")
    if getattr(model.config, "quantization_config", None) or getattr(model, "hf_quantizer", None):
        raise TokenAdaptError("the model is quantised; rows cannot be computed from it: use the unquantised model")


_NUMBERS = (int, type(None))
_TIES = "all_tied_weights_keys"
"""Where transformers notes which parameters are one."""


def _copy_numbers(before: nn.Module, after: nn.Module, model: nn.Module) -> None:
    """Set what the two built models differ in, in the same modules of the loaded one: sizes, pad ids, ties."""
    old, own = dict(before.named_modules()), dict(model.named_modules())
    for name, module in after.named_modules():
        if name not in own or name not in old:
            continue
        for key, value in vars(module).items():
            is_ours = type(value) in _NUMBERS or key == _TIES
            if is_ours and vars(old[name]).get(key, value) != value:
                setattr(own[name], key, copy.copy(value))
