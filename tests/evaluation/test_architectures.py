"""Models of other families: names of tensors, tied and untied, with and without attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
import transformers
from tokenizers import Tokenizer

from mergekit_tokenadapt.evaluation.checks import Status, run_checks
from mergekit_tokenadapt.evaluation.compare import CompareOptions, compare
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.texts import TextSet

SMALL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
FAMILIES = {
    "gpt2": lambda rows: transformers.GPT2Config(
        vocab_size=rows, n_embd=16, n_layer=1, n_head=2, n_positions=64, **SMALL
    ),
    "gpt-neox": lambda rows: transformers.GPTNeoXConfig(
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **SMALL
    ),
    "gemma2": lambda rows: transformers.Gemma2Config(
        vocab_size=rows,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        head_dim=8,
        **SMALL,
    ),
    "phi": lambda rows: transformers.PhiConfig(  # its output layer has a bias
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **SMALL
    ),
    "mamba": lambda rows: transformers.MambaConfig(  # transformers 5.0 does not tie it unless told to
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, state_size=4, tie_word_embeddings=True, **SMALL
    ),
}
NUM_VOCABULARY_TENSORS = {"gpt2": 1, "gpt-neox": 2, "gemma2": 1, "phi": 3, "mamba": 1}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, english: Tokenizer, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = FAMILIES[request.param](english.get_vocab_size())
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / request.param)
    return tiny_models.write_tokenizer(english, tmp_path / request.param)


def test_other_families_are_checked_and_scored(folder: Path) -> None:
    model = open_model(str(folder))
    failed = [f"{f.check}: {f.message}" for f in run_checks(model, model) if f.status is Status.FAILED]
    assert failed == []
    assert len(model.vocabulary_tensors) == NUM_VOCABULARY_TENSORS[folder.name]
    text = TextSet.of("t", ["the river runs", "stones and flour and water " * 10], "test")
    options = CompareOptions(window=32, stride=16, resamples=100)
    batched = compare([model], [text], options)["models"][0]["all"]["bits_per_byte"]
    single = compare([model], [text], CompareOptions(window=32, stride=16, resamples=100, batch_size=1))
    assert batched == pytest.approx(single["models"][0]["all"]["bits_per_byte"], abs=1e-5)
    assert 1 < batched < 10


def test_an_untied_output_matrix_is_found_whatever_its_name(folder: Path) -> None:
    model = open_model(str(folder))
    assert (model.output_matrix is not None) == (NUM_VOCABULARY_TENSORS[folder.name] > 1)
    assert model.output_matrix != model.input_matrix


def test_a_model_in_pytorch_files_is_read_too(base: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    folder = Path(shutil.copytree(base, tmp_path / "bin"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    found = {f.check: f for f in run_checks(open_model(str(folder)), open_model(str(base)))}
    assert found["untouched"].status is Status.PASSED
    assert found["finite"].status is Status.PASSED


def test_a_sharded_model_is_read_too(base: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(base, tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = {f.check: f for f in run_checks(open_model(str(folder)), open_model(str(base)))}
    assert found["untouched"].status is Status.PASSED
