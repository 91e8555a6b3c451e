"""The method `hidden`: states against transformers' own, and a planted map that is found."""

import json

import numpy as np
import pytest
import torch
import transformers
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from small_models import small_config, small_model
from tokenizers_zoo import make_transfer, tiny_model_folder

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import hidden
from mergekit_tokenadapt.models import last_states
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.last_states import LastStates
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.segmentation import Pieces
from mergekit_tokenadapt.transfer.examples import split_candidates

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """Reads in float32 on every machine."""
    monkeypatch.setattr(last_states, "fast_dtype", lambda _device: torch.float32)


@pytest.fixture(scope="module")
def base(byte_level_folder, tmp_path_factory):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("base"), tied=False)


def plain_states(folder, sequences, layer):
    """The state of the last token of each sequence after a layer, read one by one after the start token."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    start, found, kept = start_token(open_model(str(folder)).tokenizer.vocabulary), [], []
    # Not `output_hidden_states`: its last entry comes after the final norm.
    model.model.layers[layer - 1].register_forward_hook(lambda _m, _i, out: kept.append(out))
    for ids in sequences:
        model(torch.tensor([[start, *ids]]))
        out = kept.pop()
        found.append((out[0] if isinstance(out, tuple) else out)[0, -1].detach())
    return torch.stack(found)


@pytest.mark.parametrize("batch_tokens", [4, 2048])
def test_states_are_those_of_each_sequence_alone(base, monkeypatch, batch_tokens):
    monkeypatch.setattr(last_states, "BATCH_TOKENS", batch_tokens)
    sequences = [[5], [7, 9, 11], [300, 2], [8], [], [40, 41, 42], [1, 2, 3, 4, 5, 6]]
    read = LastStates.of_folder(open_model(str(base)), CPU).read(
        Pieces.from_lists(sequences), [1, 2], desc="", quiet=True
    )
    assert read.shape == (7, 2, 32)
    full = [ids for ids in sequences if ids]
    places = [n for n, ids in enumerate(sequences) if ids]
    for m, layer in enumerate((1, 2)):
        torch.testing.assert_close(read[places, m], plain_states(base, full, layer), atol=1e-5, rtol=1e-5)
    assert not read[4].any()


def test_the_model_is_not_run_beyond_the_last_layer(base):
    reader = LastStates.of_folder(open_model(str(base)), CPU)
    reader._layers[1].register_forward_hook(lambda *_: pytest.fail("the second layer was run"))
    reader.read(Pieces.from_lists([[5, 6]]), [1], desc="", quiet=True)


def test_the_layers_are_those_that_read_text(base):
    """Where a vision tower has as many layers, and comes first."""
    model_class = transformers.LlavaForConditionalGeneration
    model = small_model(model_class, small_config(model_class.config_class, 300))
    assert model.config.vision_config.num_hidden_layers == model.config.text_config.num_hidden_layers
    reader = LastStates(model, open_model(str(base)).tokenizer.vocabulary, "llava")
    read = reader.read(Pieces.from_lists([[5, 6]]), [1], desc="", quiet=True)
    assert list(reader._layers) == list(model.model.language_model.layers)
    assert read.any()


@pytest.fixture
def planted(base, gemma_style_folder, tmp_path, zoo):
    """(model, transfer, map): an output matrix whose rows are a linear map of the states after layer 2."""
    model = open_model(str(base))
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
    splits = split_candidates(transfer)
    places = [n for n, split in enumerate(splits) if split]
    states = plain_states(base, [splits[n] for n in places], 2)
    linear = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    tensors = {name: model.tensors.read(name).clone() for name in model.tensors}
    tensors["lm_head.weight"][[transfer.candidates[n].id for n in places]] = states @ linear + 1
    out = tmp_path / "planted"
    out.mkdir()
    for file in base.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    return out, transfer, linear


def transplanted(base, target, out, **adapt):
    return run_recipe(make_recipe(str(base), str(target), adapt), str(out), MergeOptions(quiet=True))


def test_a_planted_map_is_found(planted, gemma_style_folder, tmp_path, monkeypatch, caplog):
    base, transfer, linear = planted
    # The random input matrix says nothing about layers.
    monkeypatch.setattr(LastStates, "matrices", property(lambda self: [self._model.lm_head.weight.detach()]))
    with caplog.at_level("INFO", logger=hidden.__name__):
        out = transplanted(base, gemma_style_folder, tmp_path / "out", method="hidden")
    assert "layer 2 of 2 predicts held-out rows best" in caplog.text
    rows = load_file(str(out / "model.safetensors"))["lm_head.weight"]
    pieces = [transfer.pieces[n].tolist() for n in range(len(transfer.new_tokens))]
    places = [n for n, ids in enumerate(pieces) if ids]
    wanted = plain_states(base, [pieces[n] for n in places], 2) @ linear + 1
    found = rows[torch.from_numpy(transfer.new_ids[places])]
    assert float((found - wanted).square().mean() / wanted.var()) < 1e-3
    fits = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["fits"]
    assert fits["lm_head.weight"]["explained"] > 0.99


def test_runs_are_the_same(base, gemma_style_folder, tmp_path):
    outs = [transplanted(base, gemma_style_folder, tmp_path / name, method="hidden", layer=1) for name in ("a", "b")]
    first, second = (out.joinpath("model.safetensors").read_bytes() for out in outs)
    assert first == second


def test_a_layer_that_is_not_there_is_refused(base, gemma_style_folder, tmp_path):
    with pytest.raises(TokenAdaptError, match=r"layer: 3 is too large: .* has 2"):
        transplanted(base, gemma_style_folder, tmp_path / "out", method="hidden", layer=3)
    assert not (tmp_path / "out").exists()


def test_a_model_in_memory_is_read_itself(base, gemma_style_folder, tmp_path, monkeypatch):
    out = transplanted(base, gemma_style_folder, tmp_path / "out", method="hidden", layer=1)
    monkeypatch.setattr(LastStates, "of_folder", lambda *_: pytest.fail("the folder was read"))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ta.adapt(model, tokenizer, str(gemma_style_folder), method="hidden", layer=1, quiet=True)
    assert model.training
    written = load_file(str(out / "model.safetensors"))
    assert torch.equal(model.lm_head.weight, written["lm_head.weight"])


def test_a_base_without_a_model_is_refused(byte_level_folder, gemma_style_folder):
    with pytest.raises(TokenAdaptError, match="the method hidden reads with the base model: "):
        ta.make_plan(str(byte_level_folder), str(gemma_style_folder), method="hidden", quiet=True)


def test_at_most_so_many_examples(base, gemma_style_folder, tmp_path, monkeypatch):
    read = []
    original = LastStates.read
    monkeypatch.setattr(LastStates, "read", lambda self, s, *a, **k: read.append(len(s)) or original(self, s, *a, **k))
    transplanted(base, gemma_style_folder, tmp_path / "out", method="hidden", layer=1, examples=50)
    assert read[0] == 50
    assert np.all(np.array(read) > 0)
