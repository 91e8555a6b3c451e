"""What transformers calls the cache of a model that has read something: ``past_key_values``, or from 5.2x on ``cache``.

The old name works in the newer versions, with a FutureWarning.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast

OLD_NAME, NEW_NAME = "past_key_values", "cache"
OUTPUT_NAME = NEW_NAME if any(field.name == NEW_NAME for field in fields(CausalLMOutputWithPast)) else OLD_NAME
"""The name in the outputs of this version's models."""


def cache_argument(model: Any) -> str:
    """The name under which a model takes its cache; models with code of their own may keep the old one."""
    return NEW_NAME if NEW_NAME in inspect.signature(model.forward).parameters else OLD_NAME


def cache_of(output: Any) -> Any:
    """The cache in a model's output; None where there is none."""
    return output[NEW_NAME] if NEW_NAME in output else output.get(OLD_NAME)
