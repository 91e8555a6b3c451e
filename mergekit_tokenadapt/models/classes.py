"""The transformers class of a model, built on the meta device: names and shapes of parameters without memory.

`ModelClass.build` builds the class from its config. `ModelClass.load` also gives it a checkpoint whose tensors have
names and shapes but no content. transformers renames and converts them like real tensors, and reports missing,
unexpected and mismatched ones. This package therefore needs no list of tensor names.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.terminal.progress import without_loading_bar

LOG = logging.getLogger(__name__)

Shape = tuple[int, ...]
"""Shape of a tensor."""


class CannotBuild(TokenAdaptError):  # noqa: N818 - the name says what happened
    """A model's class cannot be built from its config, for instance because a package that it needs is missing."""


@dataclass(frozen=True)
class Loading:
    """The result of loading a checkpoint into a class, by names and shapes alone."""

    shapes: Mapping[str, Shape]
    """Name -> shape of every parameter and saved buffer of the class. A tied tensor stands under all its names."""
    missing: frozenset[str]
    """Parameters that the checkpoint does not hold, without tied ones."""
    unexpected: frozenset[str]
    """Tensors of the checkpoint that the class does not load, by their names after transformers' renaming."""
    mismatched: Mapping[str, tuple[Shape, Shape]]
    """Parameter -> (stored shape, shape that the class expects)."""
    input: str | None
    """The parameter of the input matrix (embeddings); None if the class has none."""
    output: str | None
    """The parameter of the output matrix (`lm_head`), tied or not; None if the class has none."""
    is_tied: bool
    """Whether input and output matrix are one tensor."""
    other_names: Mapping[str, str]
    """Further name of the input or output matrix -> its name in `input` or `output`. Encoder-decoders have such names:
    Marian's `model.shared.weight` is also `model.decoder.embed_tokens.weight`.
    """


@dataclass(frozen=True)
class ModelClass:
    """The class of a model, and the config from which it is built."""

    name: str
    """Name of the class."""
    config: Any
    """The transformers config; not changed."""
    model_class: Any
    """The class itself."""

    def with_any_pad(self) -> ModelClass:
        """Return the class with 0 as pad id. A class with a pad id beyond its rows cannot be built."""
        config = copy.deepcopy(self.config)
        for _, each in nested_configs(config):
            if getattr(each, "pad_token_id", None) is not None:
                each.pad_token_id = 0
        return replace(self, config=config)

    def build(self, config: Any = None) -> nn.Module:
        """Build the class on the meta device, without a checkpoint.

        Args:
            config: a config to use instead of the model's own; not changed.

        Returns:
            The model in evaluation mode. Its tensors have shapes but no content.

        Raises:
            CannotBuild: the class cannot be built from the config.
        """
        try:
            with torch.device("meta"):
                model: nn.Module = self.model_class._from_config(copy.deepcopy(config or self.config))
        except Exception as error:  # the class's own code runs here, and may raise anything
            raise self._cannot_build(error) from error
        return model.eval()

    def load(self, shapes: Mapping[str, Shape], config: Any = None) -> Loading:
        """Load a checkpoint of tensors without content.

        Args:
            shapes: stored name -> shape of each tensor of the checkpoint.
            config: a config to use instead of the model's own; not changed.

        Raises:
            CannotBuild: the class cannot be built from the config, or a conversion of tensors fails.
        """
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            with _silent():
                model, report = self.model_class.from_pretrained(
                    None,
                    config=config or self.config,
                    state_dict=tensors,
                    device_map="meta",
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception as error:  # the class's own code runs here, and may raise anything
            raise self._cannot_build(error) from error
        mismatched = {name: (tuple(stored), tuple(wanted)) for name, stored, wanted in report["mismatched_keys"]}
        return Loading(
            shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            missing=frozenset(report["missing_keys"]),
            unexpected=frozenset(report["unexpected_keys"]),
            mismatched=mismatched,
            **_embeddings(model),
        )

    def _cannot_build(self, error: Exception) -> CannotBuild:
        return CannotBuild(f"transformers' {self.name} cannot be built: {first_line(error)[:200]}")


def nested_configs(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the object of a config and of all configs nested in it."""
    from transformers import PretrainedConfig

    yield path, config
    for name, value in sorted(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            yield from nested_configs(value, (*path, name))


def find_class(folder: Path, *, trust_remote_code: bool = False) -> ModelClass | None:
    """Find the class that the config in `folder` names.

    Args:
        folder: the folder of a model.
        trust_remote_code: whether code from the folder may run. It then may also provide the class.

    Returns:
        The class; None if transformers has none, as for a model with its own code.

    Raises:
        TokenAdaptError: the config does not load.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own checks may raise anything
        if _needs_its_own_code(folder):
            return None
        raise TokenAdaptError(f"{folder / 'config.json'} does not load: {first_line(error)[:200]}") from error
    return class_of(config) or (_own_class(folder, config) if trust_remote_code else None)


def class_of(config: Any) -> ModelClass | None:
    """Return the transformers class that a config names, else the causal language model of its type, else None.

    A config with several class names, or with code of its own, gives None.
    """
    import transformers

    names = _class_names(config)
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    # A model's own code may use the name of a transformers class for something else.
    is_own = type(config).__module__.startswith("transformers_modules")
    return None if is_own or not hasattr(found, "_from_config") else ModelClass(names[0], config, found)


def _class_names(config: Any) -> list[str]:
    """Return the class names in a config, or the name of the causal language model of its type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if names := config.architectures:
        return list(names)
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return [name] if isinstance(name, str) else []


def _own_class(folder: Path, config: Any) -> ModelClass | None:
    """Import the class of a model that comes with its own code; return None if there is none."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    names = _class_names(config)
    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference is None or not names:
        return None
    try:
        return ModelClass(names[0], config, get_class_from_dynamic_module(reference, str(folder)))
    except Exception as error:  # the model's own code runs here, and may raise anything
        LOG.info("%s: its class cannot be imported: %s", folder, first_line(error))
        return None


def _needs_its_own_code(folder: Path) -> bool:
    from mergekit_tokenadapt.tokenizer.files import read_json

    return bool(read_json(folder / "config.json").get("auto_map"))


def _embeddings(model: Any) -> dict[str, Any]:
    """Return the fields of `Loading` about the input and output matrix of a built model."""
    modules = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Any] = {}
    weights = []
    for use, get in (("input", "get_input_embeddings"), ("output", "get_output_embeddings")):
        try:
            module = getattr(model, get)()
        except (AttributeError, NotImplementedError):
            module = None
        weights.append(getattr(module, "weight", None))
        found[use] = modules.get(id(module)) if weights[-1] is not None else None
    others = {
        name: main
        for main, weight in zip(reversed(found.values()), reversed(weights), strict=True)  # of tied ones, the input
        for name, parameter in parameters.items()
        if main is not None and parameter is weight and name not in found.values()
    }
    return {**found, "is_tied": weights[0] is not None and weights[0] is weights[1], "other_names": others}


@contextmanager
def _silent() -> Iterator[None]:
    """Inside the ``with`` block, hide transformers' messages about tensors that do not fit. Our code reads them."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with without_loading_bar():
            yield
    finally:
        transformers_logging.set_verbosity(level)
