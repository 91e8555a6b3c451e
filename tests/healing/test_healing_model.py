"""The model in training: which attention it uses, and that measuring sees all rows."""

import pytest
import torch

from mergekit_tokenadapt.healing.model import SHORT_PASSAGE, HealingModel
from mergekit_tokenadapt.healing.options import HealOptions
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
