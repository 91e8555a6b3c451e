"""The model in training: which attention it uses, and that measuring sees all rows."""

import types

import pytest
import torch

from mergekit_tokenadapt.healing.model import SHORT_PASSAGE, HealingModel
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.trainer import HealingTrainer
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model


@pytest.mark.parametrize(("passage_bytes", "used"), [(SHORT_PASSAGE, "eager"), (SHORT_PASSAGE + 1, "sdpa")])
def test_short_passages_use_plain_attention_while_training_and_no_others(pair, passage_bytes, used):
    loaded = load_model(open_model(str(pair[1])), device="cpu", dtype="float32")
    assert loaded.config._attn_implementation == "sdpa"
    options = HealOptions(passage_bytes=passage_bytes, train="rows")
    healing = HealingModel(loaded, torch.arange(5), 1.0, options)
    assert loaded.config._attn_implementation == used
    with healing.whole() as whole:
        assert whole.config._attn_implementation == "sdpa"
        assert len(whole.get_input_embeddings().weight) > 5
    assert loaded.config._attn_implementation == used
    assert healing.finished().config._attn_implementation == "sdpa"


def test_rates_are_relative_to_the_size_of_the_weights(pair):
    options = HealOptions(rank=4, rate=0.01, row_rate=0.1)
    rates = []
    for factor in (1.0, 3.0):
        model = load_model(open_model(str(pair[1])), device="cpu", dtype="float32")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= factor
        linear = [m.weight for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
        body = torch.cat([w.detach().flatten() for w in linear]).square().mean().sqrt()
        trained = torch.tensor([3, 5, 8])
        healing = HealingModel(model, trained, 1.0, options)
        trainer = types.SimpleNamespace(
            optimizer=None, model=healing, accelerator=types.SimpleNamespace(unwrap_model=lambda m: m), _options=options
        )
        groups = HealingTrainer.create_optimizer(trainer).param_groups
        assert groups[0]["lr"] == pytest.approx(0.1 * float(healing.rows.square().mean().sqrt()), rel=1e-5)
        assert groups[-1]["lr"] == pytest.approx(0.01 * float(body), rel=1e-5)
        assert len(groups) == (2 if healing.is_tied else 3)
        rates.append([group["lr"] for group in groups])
    assert rates[1] == pytest.approx([3 * rate for rate in rates[0]], rel=1e-5)
