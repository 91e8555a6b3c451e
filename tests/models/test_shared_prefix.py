"""Prefixes shared through the key-value caches of different architectures, and a model without such a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mergekit_tokenadapt.models.shared_prefix import PrefixScorer
from mergekit_tokenadapt.tokenizer.continuations import Continuation

LLAMA = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    # Windows that are shorter than the prefixes: the cache forgets its first tokens.
    "sliding and full layers": (
        "Gemma3TextConfig",
        {**LLAMA, "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "sliding layers": ("MistralConfig", {**LLAMA, "sliding_window": 8}),
    "a position table": (
        "GPT2Config",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1},
    ),
    "positions from the mask (ALiBi)": (
        "BloomConfig",
        {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
}
MAMBA = ("MambaConfig", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4})


def model_of(config: tuple[str, dict[str, Any]]) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config[0])(**config[1])).eval()
    for parameter in model.parameters():  # sharper than the usual initialisation: losses differ visibly
        parameter.data *= 3
    return model


@pytest.fixture
def documents() -> list[list[Continuation]]:
    """Contexts of several lengths, two of which are the same, with three answers each."""
    generator = np.random.default_rng(0)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(generator.integers(2, 100, number).tolist())

    contexts = [tokens(length) for length in (40, 40, 25, 12, 1)]
    return [
        [Continuation(context + tokens(number), len(context), 4, keeps_boundary=True) for number in (3, 6, 2)]
        for context in contexts
    ]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_shared_prefix_changes_no_loss(kind: str, documents: list[list[Continuation]]) -> None:
    model = model_of(CONFIGS[kind])
    shared, plain = PrefixScorer(model), PrefixScorer(model, shares=False)
    np.testing.assert_allclose(
        np.concatenate(shared.score(documents)), np.concatenate(plain.score(documents)), atol=1e-4
    )
    assert shared.why_plain is None


def test_a_model_whose_state_cannot_be_copied_is_scored_without_sharing(documents: list[list[Continuation]]) -> None:
    model = model_of(MAMBA)
    shared, plain = PrefixScorer(model), PrefixScorer(model, shares=False)
    np.testing.assert_allclose(
        np.concatenate(shared.score(documents)), np.concatenate(plain.score(documents)), atol=1e-4
    )
    assert shared.why_plain is not None
    assert "cannot be copied" in shared.why_plain
