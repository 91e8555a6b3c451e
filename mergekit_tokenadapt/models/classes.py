"""The class that a model's config names, built on the meta device: shapes and names without memory.

transformers itself says what it makes of a checkpoint: it gets tensors that have a name and a shape and no
content, renames and converts them as it would real ones, and reports what is missing, unexpected, or of
another shape. No table of names is kept here.
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

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.terminal.progress import without_loading_bar

LOG = logging.getLogger(__name__)

Shape = tuple[int, ...]


class CannotBuild(TokenAdaptError):  # noqa: N818 - it says what is the matter
    """A model's class cannot be built from its config here: a package that it needs may be missing."""


@dataclass(frozen=True)
class Loading:
    """What a class makes of a checkpoint."""

    shapes: Mapping[str, Shape]
    """Every parameter and saved buffer of the class; tied ones under all their names."""
    missing: frozenset[str]
    """Parameters that the checkpoint does not hold; tied ones are not among them."""
    unexpected: frozenset[str]
    """Tensors that the class has no place for, by the name that it looked for."""
    mismatched: Mapping[str, tuple[Shape, Shape]]
    """Parameter to (the stored shape, the shape that the class wants)."""
    input: str | None
    """The parameter of the input embedding; None where the class has none."""
    output: str | None
    """The parameter of the output matrix, tied or not; None where the class has none."""
    is_tied: bool
    """Whether the output matrix is the input embedding."""


@dataclass(frozen=True)
class ModelClass:
    """The class of a model and the config it is built from."""

    name: str
    config: Any
    model_class: Any

    def with_any_pad(self) -> ModelClass:
        """The same with id 0 for padding: one that is beyond the rows would stop the class from being built."""
        config = copy.deepcopy(self.config)
        for _, each in nested_configs(config):
            if getattr(each, "pad_token_id", None) is not None:
                each.pad_token_id = 0
        return replace(self, config=config)

    def load(self, shapes: Mapping[str, Shape], config: Any = None) -> Loading:
        """Load a checkpoint of tensors without content.

        Args:
            shapes: of the checkpoint's tensors, by stored name.
            config: another config than the model's own; not changed.

        Raises:
            CannotBuild: the class cannot be built from the config, or a conversion of tensors failed.
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
            raise CannotBuild(f"transformers' {self.name} cannot be built: {first_line(error)[:200]}") from error
        mismatched = {name: (tuple(stored), tuple(wanted)) for name, stored, wanted in report["mismatched_keys"]}
        return Loading(
            shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            missing=frozenset(report["missing_keys"]),
            unexpected=frozenset(report["unexpected_keys"]),
            mismatched=mismatched,
            **_embeddings(model),
        )


def nested_configs(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A config and those in it, with where they are."""
    from transformers import PretrainedConfig

    yield path, config
    for name, value in sorted(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            yield from nested_configs(value, (*path, name))


def find_class(folder: Path, *, trust_remote_code: bool = False) -> ModelClass | None:
    """The class that the config in `folder` names; None where transformers has none, as for a model's own code.

    Raises:
        TokenAdaptError: the config does not load.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own checks raise all kinds
        if _needs_its_own_code(folder):
            return None
        raise TokenAdaptError(f"{folder / 'config.json'} does not load: {first_line(error)[:200]}") from error
    names = config.architectures or _causal_name(config)
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    if (
        found is None
        or not hasattr(found, "_from_config")
        or type(config).__module__.startswith("transformers_modules")
    ):
        return _own_class(folder, config, names) if trust_remote_code else None
    return ModelClass(names[0], config, found)


def _causal_name(config: Any) -> list[str]:
    """The causal language model of a config that names no class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return [name] if isinstance(name, str) else []


def _own_class(folder: Path, config: Any, names: list[str]) -> ModelClass | None:
    """The class of a model that comes with its own code."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference is None or not names:
        return None
    try:
        return ModelClass(names[0], config, get_class_from_dynamic_module(reference, str(folder)))
    except Exception as error:  # the model's own code runs here
        LOG.info("%s: its class cannot be imported: %s", folder, first_line(error))
        return None


def _needs_its_own_code(folder: Path) -> bool:
    from mergekit_tokenadapt.tokenizer.files import read_json

    return bool(read_json(folder / "config.json").get("auto_map"))


def _embeddings(model: Any) -> dict[str, Any]:
    """Input and output matrix of a built model, as `Loading` has them."""
    modules = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    found: dict[str, Any] = {}
    weights = []
    for use, get in (("input", "get_input_embeddings"), ("output", "get_output_embeddings")):
        try:
            module = getattr(model, get)()
        except (AttributeError, NotImplementedError):
            module = None
        weights.append(getattr(module, "weight", None))
        found[use] = modules.get(id(module)) if weights[-1] is not None else None
    return {**found, "is_tied": weights[0] is not None and weights[0] is weights[1]}


@contextmanager
def _silent() -> Iterator[None]:
    """transformers' report of what did not fit is read here, and not shown."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with without_loading_bar():
            yield
    finally:
        transformers_logging.set_verbosity(level)
