"""Resize the vocabulary tensors of a loaded transformers model, in place.

Besides tensors, a model's modules keep numbers that depend on the vocabulary, such as ``num_embeddings``. To find them,
the model's class is built twice on the meta device, from the old and from the new config. Every number that differs
between the two is set in the loaded model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.classes import ModelClass, nested_configs
from mergekit_tokenadapt.models.vocabulary_axes import Key, VocabularyTables, copies_of_sizes, find_tables

Change = tuple[Key, Any]
"""A change of a config: (path of the key, new value)."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded transformers model with its vocabulary tensors."""

    model: Any
    tables: VocabularyTables
    """The parameters of the model's class that have a vocabulary axis."""
    size_keys: tuple[Key, ...]
    """Paths of all config keys that state the number of rows."""
    tensors: Mapping[str, Tensor]
    """Name -> parameter or buffer with a vocabulary axis. A tied tensor stands under all its names."""

    @classmethod
    def of(cls, model: Any) -> LoadedModel:
        """Find the vocabulary tensors of a model by means of its class.

        Raises:
            TokenAdaptError: the object is no transformers model; the model is quantised or not in memory; or its
                tensors do not fit its config.
        """
        _check_kind(model)
        model_class = ModelClass(type(model).__name__, copy.deepcopy(model.config), type(model)).with_any_pad()
        loading = model_class.load({})
        tables = find_tables(model_class, loading)
        held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        missing = sorted(tables.axes.keys() - held.keys())
        if missing:
            raise TokenAdaptError(f"the model holds no {missing[0]}: take adapters off, or merge them, before adapting")
        loaded = cls(
            model,
            tables,
            (*tables.sizes, *copies_of_sizes(model_class, loading, tables)),
            {name: held[name] for name in tables.axes},
        )
        loaded._check_tensors()
        return loaded

    @cached_property
    def config(self) -> Any:
        """A copy of the config with the class name in ``architectures``, as `save_pretrained` would write it."""
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]
        return config

    @property
    def rows(self) -> int:
        """Number of rows of the vocabulary tensors; tables per layer, which may have fewer rows, do not count."""
        return min(
            self.tensors[n].shape[axis] for n, axis in self.tables.axes.items() if n not in self.tables.per_layer
        )

    def groups(self) -> list[list[str]]:
        """Group the names by tensor. A tied tensor gives a group of several names."""
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
        """Set new values in the config and new tensors in the model. All checks precede the first change.

        Args:
            changes: the changes of the config.
            made: first name of each group -> new tensor.
            groups: the names that share one tensor.

        Raises:
            TokenAdaptError: the class expects tensors of other shapes for the new config. The model is unchanged then.
        """
        model_class = ModelClass(type(self.model).__name__, self.model.config, type(self.model))
        before = model_class.build()
        config = copy.deepcopy(self.model.config)
        set_values(config, changes)
        after = model_class.build(config)
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

    def _configs(self) -> list[Any]:
        """Return the model's config, and the config objects of the same type that its modules refer to."""
        own = self.model.config
        found = {id(own): own}
        for module in self.model.modules():
            config = getattr(module, "config", None)
            if type(config) is type(own):
                found[id(config)] = config
        return list(found.values())

    def _put(self, names: list[str], rows: Tensor) -> None:
        """Set one new tensor under all names of a group, so that tied parameters stay one object."""
        old = self.tensors[names[0]]
        is_parameter = isinstance(old, nn.Parameter)
        new = nn.Parameter(rows, requires_grad=old.requires_grad) if is_parameter else rows
        for name in names:
            holder, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(holder), leaf, new)


def untying(config: Any) -> Iterator[Change]:
    """Return the changes of a config that untie the output matrix from the input matrix."""
    text = config.get_text_config()
    for path, each in nested_configs(config):
        if each is config or each is text:
            yield (*path, "tie_word_embeddings"), False


def set_values(config: Any, changes: list[Change]) -> None:
    """Set values of a config and its nested configs, in place.

    Raises:
        TokenAdaptError: a path leads into a list of configs.
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
"""Types of module attributes that are carried over. None counts, because a pad id may become None."""
_TIES = "all_tied_weights_keys"
"""Attribute in which transformers records which parameters are tied."""


def _copy_numbers(before: nn.Module, after: nn.Module, model: nn.Module) -> None:
    """Set in `model` every number (sizes, pad ids) and the list of ties in which `after` differs from `before`."""
    old, own = dict(before.named_modules()), dict(model.named_modules())
    for name, module in after.named_modules():
        if name not in own or name not in old:
            continue
        for key, value in vars(module).items():
            is_ours = type(value) in _NUMBERS or key == _TIES
            if is_ours and vars(old[name]).get(key, value) != value:
                setattr(own[name], key, copy.copy(value))
