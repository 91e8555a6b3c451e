"""The name of the key-value cache in transformers: ``past_key_values`` in older versions, ``cache`` from 5.2x on.

Newer versions accept the old name with a FutureWarning.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast

OLD_NAME, NEW_NAME = "past_key_values", "cache"
OUTPUT_NAME = NEW_NAME if any(field.name == NEW_NAME for field in fields(CausalLMOutputWithPast)) else OLD_NAME
"""Name of the cache in the model outputs of the installed version."""


def cache_argument(model: Any) -> str:
    """Return the name of the cache among the arguments of a model's ``forward``.

    Models with their own code may still use the old name.
    """
    return NEW_NAME if NEW_NAME in inspect.signature(model.forward).parameters else OLD_NAME


def takes_cache(model: Any) -> bool:
    """Return whether a model's ``forward`` takes a cache under a name of transformers; RWKV's takes a `state`."""
    return cache_argument(model) in inspect.signature(model.forward).parameters


def cache_of(output: Any) -> Any:
    """Return the cache in a model's output; None if it holds none."""
    return output[NEW_NAME] if NEW_NAME in output else output.get(OLD_NAME)
