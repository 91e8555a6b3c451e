"""Lists of config.json with an entry for each layer, in merges whose slices choose layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergekit.config import OutputSliceDefinition

PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")
"""Config keys whose value has an entry for each layer of the language model."""


def choose_layers(config: Any, slices: Sequence[OutputSliceDefinition], *, trust_remote_code: bool) -> None:
    """Make the lists of a config that have an entry for each layer those of the layers that the slices choose.

    mergekit sets the number of layers and leaves these lists as they were. transformers refuses such a config (Qwen 3,
    Gemma 3), or gives a layer another kind of attention than it was trained with.

    Args:
        config: the config of the output model, an object of transformers; it is changed.
        slices: the slices of the recipe. A layer is of the kind that the first source of its slice has.
        trust_remote_code: whether configs may run code of the models.
    """
    language_model = config.get_text_config()
    sources = [each.sources[0] for each in slices]
    configs = [s.model.config(trust_remote_code=trust_remote_code).get_text_config() for s in sources]
    for key in PER_LAYER:
        lists = [vars(each).get(key) for each in configs]
        if vars(language_model).get(key) and all(lists):
            chosen = [list(each[slice(*s.layer_range)]) for s, each in zip(sources, lists, strict=True)]
            setattr(language_model, key, [entry for part in chosen for entry in part])
