"""Hidden states read from a model."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from mergekit_tokenadapt.correction import states as states_module
from mergekit_tokenadapt.correction.states import Reader
from mergekit_tokenadapt.errors import TokenAdaptError


@pytest.fixture
def model(tmp_path, byte_level_folder, tiny_model_folder):
    folder = tiny_model_folder(byte_level_folder, tmp_path / "model")
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def test_states_times_rows_are_logits_whatever_else_is_in_the_batch(model):
    sequences = [[5, 6, 7, 8, 9], [10], [], [11, 12]]
    with Reader(model) as reader:
        rows = reader.output_rows
        states = list(reader.read(sequences, 1, reader.input_rows))
        assert [len(s) for s in states] == [5, 1, 0, 2]
        for ids, state in zip(sequences, states, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[1, *ids]])).logits[0, : len(ids)]
            torch.testing.assert_close(state @ rows.T, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("batch_tokens", "together"), [(8, 64), (8, 3), (1, 64), (1000, 2)])
def test_states_come_in_order_however_they_are_batched(model, batch_tokens, together, monkeypatch):
    sequences = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [], [18], [19, 20], [21, 22, 23, 24]]
    with Reader(model) as reader:
        whole = list(reader.read(sequences, 1, reader.input_rows))
        monkeypatch.setattr(states_module, "BATCH_TOKENS", batch_tokens)
        monkeypatch.setattr(states_module, "SORTED_TOGETHER", together)
        parts = list(reader.read(sequences, 1, reader.input_rows))
    assert [len(part) for part in parts] == [len(ids) for ids in sequences]
    for part, all_at_once in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, all_at_once, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_batches_hold_every_sequence_once_and_no_more_than_they_may(lengths, batch_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states_module, "BATCH_TOKENS", batch_tokens)
        batches = states_module._batches(lengths)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(1, *(lengths[n] for n in batch)) <= batch_tokens


def test_swapped_input_rows_are_used_and_put_back(model):
    own = model.get_input_embeddings().weight.detach().clone()
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))
    with Reader(model) as reader:
        plain = next(reader.read([order[:6].tolist()], int(order[9]), own))
        permuted = next(reader.read([list(range(6))], 9, own[order]))
    torch.testing.assert_close(plain, permuted)
    assert torch.equal(model.get_input_embeddings().weight, own)


def test_models_that_change_their_logits_are_refused():
    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.01,
    )  # fmt: skip
    with pytest.raises(TokenAdaptError, match="changes its logits after the output matrix"):
        Reader(transformers.Gemma2ForCausalLM(config).eval())
    biased = transformers.PhiForCausalLM(
        transformers.PhiConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            pad_token_id=None,  # transformers 5.0 has no default
        )
    )  # fmt: skip
    with pytest.raises(TokenAdaptError, match="no bias"):
        Reader(biased.eval())


def test_scaled_logits_are_followed():
    config = transformers.GraniteConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=4.0, pad_token_id=None,
    )  # fmt: skip
    model = transformers.GraniteForCausalLM(config).eval()
    with Reader(model) as reader, torch.no_grad():
        states = next(reader.read([[5, 6]], 1, reader.input_rows))
        logits = model(torch.tensor([[1, 5]])).logits[0]
        torch.testing.assert_close(states @ reader.output_rows.T, logits, rtol=1e-3, atol=1e-5)
