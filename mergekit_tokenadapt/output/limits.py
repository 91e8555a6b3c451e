"""How long a text may be: what the target's tokenizer says of its own model, and what the base model has positions for.

transformers cuts texts at the tokenizer's `model_max_length` where it is asked to (``truncation=True``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length")
"""What configs call their number of positions."""
TURNING = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_pct", "rotary_dim", "rotary_emb_base")
"""Keys of models that turn queries and keys instead of looking positions up: they read on beyond the number."""
KEY = "model_max_length"
NO_LIMIT = 10**9
"""transformers writes 10^30 where there is none."""


def limit_of(tokenizer_config: Mapping[str, Any]) -> int | None:
    """A tokenizer's `model_max_length`; None where it sets none."""
    value = tokenizer_config.get(KEY)
    return int(value) if isinstance(value, int | float) and 0 < value < NO_LIMIT else None


def positions_of(config: Mapping[str, Any], *, first: int = 0) -> int | None:
    """Positions of a model, from the content of its config.json; None where it does not say.

    `first` is the first one that is used, in models that count on from the pad token's id.
    """
    text = {**config, **(config.get("text_config") or {})}
    found = next((text[key] for key in POSITION_KEYS if type(text.get(key)) is int and text[key] > 0), None)
    return None if found is None else found - first


def model_max_length(
    config: Mapping[str, Any], base: Mapping[str, Any], target: Mapping[str, Any], *, first: int = 0
) -> int | None:
    """The limit that the output's tokenizer has to state; None where what the target states is right.

    Args:
        config: content of the base model's config.json.
        base: content of its tokenizer_config.json.
        target: content of the target's tokenizer_config.json.
        first: see `positions_of`.
    """
    own, before = limit_of(target), limit_of(base)
    is_turning = any(config.get(key) or (config.get("text_config") or {}).get(key) for key in TURNING)
    # Nothing changes for those who use the base, or nothing is promised; but a table ends where it ends.
    if (own == before or own is None) and (is_turning or before is None):
        return None
    known = [limit for limit in (before, positions_of(config, first=first)) if limit is not None]
    lowest = min(known, default=None)
    return lowest if lowest is not None and (own is None or lowest < own) else None
