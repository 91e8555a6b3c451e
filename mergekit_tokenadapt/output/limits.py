"""Set the tokenizer's `model_max_length`, at which transformers truncates texts (``truncation=True``).

The target tokenizer states the limit of its own model. The base model may have fewer positions than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length")
"""Config keys that state the number of positions."""
TURNING = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_pct", "rotary_dim", "rotary_emb_base")
"""Config keys of models with rotary position embeddings, which have no position table and can read longer texts."""
KEY = "model_max_length"
SPECIAL_TOKENS = 4
"""Positions that are kept for special tokens and a dummy space at the beginning of a passage."""
NO_LIMIT = 10**9
"""Values from here on mean that there is no limit. transformers writes 10^30 in that case."""


def limit_of(tokenizer_config: Mapping[str, Any]) -> int | None:
    """Return `model_max_length` from the content of a tokenizer_config.json; None if it sets no limit."""
    value = tokenizer_config.get(KEY)
    return int(value) if isinstance(value, int | float) and 0 < value < NO_LIMIT else None


def positions_of(config: Mapping[str, Any], *, first: int = 0) -> int | None:
    """Return the number of positions that a model can use; None if its config does not state it.

    Args:
        config: content of the model's config.json.
        first: the first position that is used. It is not 0 in models that count positions from the pad id.
    """
    text = {**config, **(config.get("text_config") or {})}
    found = next((text[key] for key in POSITION_KEYS if type(text.get(key)) is int and text[key] > 0), None)
    return None if found is None else found - first


def passage_limit(*configs: Mapping[str, Any]) -> int | None:
    """Return the most bytes of a passage whose tokens all fit into every model's position table, one token per byte.

    Args:
        configs: content of the config.json of each model.

    Returns:
        The number of bytes; None if no model has a limit: models with rotary position embeddings have none, nor those
        whose config states no number of positions.
    """
    tables = (positions_of(config) for config in configs if not _is_turning(config))
    return min((max(1, positions - SPECIAL_TOKENS) for positions in tables if positions is not None), default=None)


def model_max_length(
    config: Mapping[str, Any], base: Mapping[str, Any], target: Mapping[str, Any], *, first: int = 0
) -> int | None:
    """Return the limit that the output's tokenizer must state, in tokens; None if the target's statement is right.

    Args:
        config: content of the base model's config.json.
        base: content of the base model's tokenizer_config.json.
        target: content of the target's tokenizer_config.json.
        first: the first position that is used; see `positions_of`.
    """
    own, before = limit_of(target), limit_of(base)
    # Without a new limit, users of the base see no change. A position table, however, must never be exceeded.
    if (own == before or own is None) and (_is_turning(config) or before is None):
        return None
    known = [limit for limit in (before, positions_of(config, first=first)) if limit is not None]
    lowest = min(known, default=None)
    return lowest if lowest is not None and (own is None or lowest < own) else None


def _is_turning(config: Mapping[str, Any]) -> bool:
    return any(config.get(key) or (config.get("text_config") or {}).get(key) for key in TURNING)
