"""Models that keep a recurrent state beside or instead of a key-value cache, in both kinds of ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from small_models import small_config, small_model

from mergekit_tokenadapt.ensemble.byte_model import _Runs
from mergekit_tokenadapt.models.lockstep import LockstepConfig, LockstepForCausalLM

ROWS = 300
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64},
    "LlamaForCausalLM": {},
    "MambaForCausalLM": {},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3},
    "RwkvForCausalLM": {},
}


@pytest.fixture(params=OPTIONS)
def model(request: pytest.FixtureRequest) -> Any:
    model_class = getattr(transformers, request.param)
    made = small_model(model_class, small_config(model_class.config_class, ROWS, **OPTIONS[request.param]))
    made.generation_config.eos_token_id = None
    return made


@torch.no_grad()
def test_probabilities_do_not_depend_on_what_was_read_before(model: Any) -> None:
    runs = _Runs(model, start=1)
    for tokens in ((5, 6, 7, 8), (5, 6, 7, 9, 10), (5, 6), (5, 6, 11, 12), (5, 6, 11)):
        expected = model(torch.tensor([[1, *tokens]])).logits[0, -1].softmax(dim=0)
        torch.testing.assert_close(torch.from_numpy(runs.after(tokens)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("use_cache", [True, False])
def test_an_ensemble_of_a_model_with_itself_writes_what_the_model_writes(model: Any, use_cache: bool) -> None:
    config = LockstepConfig(vocab_size=ROWS, members=["a", "b"], weights=[0.5, 0.5])
    ensemble, ids = LockstepForCausalLM(config, [model, model]).eval(), torch.tensor([[2, 30, 31]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "use_cache": use_cache}
    assert torch.equal(ensemble.generate(ids, **options), model.generate(ids, **options, eos_token_id=None))
