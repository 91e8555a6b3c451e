"""Healed weights are written under the names that the model's files have, whatever transformers calls them."""

import shutil

import pytest
import torch
import transformers
from quick_healing import healed
from safetensors.torch import load_file, save_file
from small_models import small_config, small_model
from transplanting import tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.writing import write_healed
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


def store(folder, tensors):
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def bare_pair(tmp_path, byte_level_folder, gemma_style_folder):
    """GPT-2 with `wte.weight` for `transformer.wte.weight`, as its authors stored it, and a tensor of no layer."""
    tokenizer = load_tokenizer(str(byte_level_folder))
    config = small_config(transformers.GPT2Config, tokenizer.vocabulary.num_ids, n_positions=256)
    base = tmp_path / "base"
    small_model(transformers.GPT2LMHeadModel, config).save_pretrained(base)
    tokenizer.copy_to(base)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(base).items()}
    masks = {"h.0.attn.bias": torch.ones(4, 4, dtype=torch.bool), "h.1.attn.bias": torch.ones(4, 4, dtype=torch.uint8)}
    store(base, {**tensors, **masks, "h.0.attn.masked_bias": torch.tensor(-1e4)})
    return base, transplant(base, gemma_style_folder, tmp_path / "moved")


def test_names_without_the_prefix_of_the_class(bare_pair, tmp_path, text_file):
    result = healed(bare_pair, tmp_path / "out", text_file, passage_bytes=100, rate=0.05)
    assert result.is_better
    before, after = tensors_of(bare_pair[1]), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"wte.weight", "h.0.attn.c_attn.weight"} <= changed
    assert not {"h.0.attn.masked_bias", "h.0.attn.bias", "h.1.attn.bias"} & changed


def test_weights_that_are_not_trained_keep_their_bits_in_any_dtype(bare_pair, tmp_path, text_file):
    moved = bare_pair[1]
    tensors = tensors_of(moved)
    half = {name: t.bfloat16() if t.is_floating_point() and "ln_" not in name else t for name, t in tensors.items()}
    store(moved, half)
    settings = {"train": "rows", "row_rate": 0.2, "passage_bytes": 100}
    assert healed(bare_pair, tmp_path / "out", text_file, **settings).is_better
    after = tensors_of(tmp_path / "out")
    assert all(torch.equal(half[name], after[name]) for name in half if name != "wte.weight")


def test_a_model_whose_class_calls_all_of_it_its_base_model(tmp_path, byte_level_folder, gemma_style_folder, text_file):
    tokenizer, model_class = load_tokenizer(str(byte_level_folder)), transformers.Llama4ForCausalLM
    config = small_config(model_class.config_class, tokenizer.vocabulary.num_ids, pad_token_id=None)
    model = small_model(model_class, config)
    assert model.base_model is model
    model.save_pretrained(tmp_path / "base")
    tokenizer.copy_to(tmp_path / "base")
    moved = transplant(tmp_path / "base", gemma_style_folder, tmp_path / "moved", calibration_text=str(text_file))
    result = healed((tmp_path / "base", moved), tmp_path / "out", text_file, passage_bytes=100, rate=0.05)
    assert result.is_better


def test_a_tied_matrix_that_is_stored_twice(tied_pair, tmp_path, text_file):
    base, moved = tied_pair[0], shutil.copytree(tied_pair[1], tmp_path / "moved")
    tensors = {name: tensor.float() for name, tensor in tensors_of(moved).items()}
    before = tensors["model.embed_tokens.weight"]
    store(moved, {**tensors, "lm_head.weight": before.clone()})
    healed((base, moved), tmp_path / "out", text_file)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(after["lm_head.weight"], before)


def test_weights_that_cannot_be_written_are_refused_before_training(bare_pair, tmp_path, text_file, monkeypatch):
    """A class whose names are other ones altogether."""
    original = transformers.PreTrainedModel.save_pretrained

    def renaming(model, folder, **options):
        original(model, folder, **options)
        file = folder + "/model.safetensors"
        save_file({name.replace("wte", "other"): t for name, t in load_file(file).items()}, file, {"format": "pt"})

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", renaming)
    with pytest.raises(TokenAdaptError, match=r"cannot be healed: transformers saves the tensor transformer\.other\.w"):
        healed(bare_pair, tmp_path / "out", text_file, passage_bytes=100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "weights as they were"])
def test_weights_before_healing_in_other_files_are_left_out(tied_pair, tmp_path, caplog, is_trained):
    moved = shutil.copytree(tied_pair[1], tmp_path / "moved")
    stale = ["checkpoint-10/model.safetensors", "model-f16.gguf", "onnx/model.onnx", "optimizer.pt", "training.bin"]
    kept = ["additional_chat_templates/x.jinja", "LICENSE", "modeling_own.py", "token_map.safetensors"]
    for name in (*stale, *kept):
        (moved / name).parent.mkdir(exist_ok=True)
        (moved / name).write_text("of the model before healing")
    shutil.copyfile(moved / "model.safetensors", moved / "model.fp16.safetensors")
    model = open_model(str(moved))
    trained = load_model(model, device="cpu", dtype="float32") if is_trained else None
    if is_trained:
        with torch.no_grad():
            trained.get_input_embeddings().weight.add_(1)
    figures = {"before": {}, "after": {}}
    record = {"options": {"objective": "next_token"}, "texts": [], "steps": 1, "tokens": 1, "curve": []}
    write_healed(model, trained, {**record, "held_out": figures, "probes": figures}, tmp_path / "out")
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    copy = "model.fp16.safetensors"
    assert found == {file.name for file in tied_pair[1].iterdir()} | {*kept, *(() if is_trained else (copy,))}
    names = sorted([*(name.split("/")[0] for name in stale), *((copy,) if is_trained else ())])
    (said,) = [r.message for r in caplog.records if r.message.startswith("the healed model goes without")]
    assert f"without {', '.join(names)} of {moved}: " in said
    before, after = (load_file(folder / "model.safetensors") for folder in (moved, tmp_path / "out"))
    assert any(not torch.equal(before[name], after[name]) for name in before) == is_trained
