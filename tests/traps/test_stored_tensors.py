"""What a checkpoint holds beyond mergekit's definition of its architecture, in swaps and in merges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from packaging.version import Version
from safetensors.torch import save_file
from small_models import logits_of, small_config, small_model
from tokenizers_zoo import CORPUS, write_tokenizer
from torch import Tensor
from transplanting import edit_json, tensors_of, transplant

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks import Status, run_checks
from mergekit_tokenadapt.models import CannotBuild, ModelClass
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.plugin.transplant import run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan
from mergekit_tokenadapt.two_models.restore import restore

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, byte_level_folder: Path) -> Make:
    """``make("OPTForCausalLM", "name", seed=0, **options)``: folder of a tiny model with a tokenizer."""
    files = load_tokenizer(str(byte_level_folder))
    rows = files.vocabulary.num_ids

    def made(class_name: str, folder: str, seed: int = 0, **options: Any) -> Path:
        model_class = getattr(transformers, class_name)
        ids = {f"{role}_token_id": files.vocabulary.roles.get(role) for role in ("bos", "eos", "pad")}
        options = {name: rows if value == "rows" else value for name, value in options.items()}
        config = small_config(model_class.config_class, rows, **{**ids, **options})
        small_model(model_class, config, seed).save_pretrained(tmp_path / folder)
        return write_tokenizer(tmp_path / folder, files.definition, files.config)

    return made


def with_tensors(folder: Path, more: Mapping[str, Tensor | None]) -> Path:
    """Add tensors to a model; those that are None are taken out."""
    tensors = {name: tensor for name, tensor in (tensors_of(folder) | dict(more)).items() if tensor is not None}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def merge(out: Path, recipe: Mapping[str, Any], target: Path | None = None) -> Path:
    """Run a recipe; with a target, with an ``adapt`` block, and without one as stock mergekit does."""
    if target is None:
        run_merge(MergeConfiguration.model_validate(recipe), str(out), MergeOptions(quiet=True))
        return out
    tokenizer = {"source": str(target), "adapt": {"method": "mean"}}
    return run_recipe({**recipe, "tokenizer": tokenizer}, str(out), MergeOptions(quiet=True))


def linear(*models: Path) -> dict[str, Any]:
    parameters = {"weight": 0.5}
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": parameters} for m in models]}


def loaded(folder: Path, class_name: str) -> dict[str, Tensor]:
    """The parameters as the class has them."""
    model, report = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state: dict[str, Tensor] = model.state_dict()
    return state


# --- layers that the class does not load


def test_a_layer_that_predicts_further_tokens_is_carried_over_with_its_tables(tmp_path, make, unigram_folder):
    folder = make("DeepseekV3ForCausalLM", "model", head_dim=8)
    before = tensors_of(folder)
    layer = {k.replace(".1.", ".2."): torch.rand_like(t) for k, t in before.items() if k.startswith("model.layers.1.")}
    tables = {
        "model.layers.2.embed_tokens.weight": torch.rand_like(before["model.embed_tokens.weight"]),
        "model.layers.2.shared_head.head.weight": torch.rand_like(before["lm_head.weight"]),
    }
    further = layer | tables | {"model.layers.2.eh_proj.weight": torch.rand(32, 64)}
    with_tensors(folder, further)
    edit_json(folder / "config.json", num_nextn_predict_layers=1)
    after = tensors_of(out := transplant(folder, unigram_folder, tmp_path / "out"))
    plan = load_plan(out / "tokenadapt.plan")
    assert after.keys() == before.keys() | further.keys()
    for name, tensor in further.items():
        assert torch.equal(after[name], plan.apply(tensor).rows if name in tables else tensor), name


def test_a_tensor_that_may_or_may_not_be_a_table_is_refused(tmp_path, make, unigram_folder):
    folder = make("LlamaForCausalLM", "model")
    rows = len(tensors_of(folder)["model.embed_tokens.weight"])
    with_tensors(folder, {"model.extra.bias_of_tokens": torch.zeros(rows, 7)})
    with pytest.raises(
        TokenAdaptError, match=r"model\.extra\.bias_of_tokens, .* axis of the vocabulary's size"
    ) as caught:
        transplant(folder, unigram_folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["layers.0.ple.ple_embedding.ngram_embedding.weight", "encoder_hash_tok_embedding.weight"]
)
def test_a_table_of_hashed_ids_is_refused_where_ids_change(tmp_path, make, unigram_folder, byte_level_folder, name):
    folder = with_tensors(make("LlamaForCausalLM", "model"), {f"model.{name}": torch.rand(7, 3)})
    with pytest.raises(TokenAdaptError, match=rf"model.{name} is looked up by hashes of token ids"):
        transplant(folder, unigram_folder, tmp_path / "out")
    transplant(folder, byte_level_folder, tmp_path / "same")


def test_as_many_positions_as_tokens_are_no_vocabulary(tmp_path, make, unigram_folder):
    folder = make("GPT2LMHeadModel", "model", n_positions="rows")
    rows = len(tensors_of(folder)["transformer.wte.weight"])
    with_tensors(folder, {"transformer.further_positions": torch.rand(rows)})
    before, after = tensors_of(folder), tensors_of(transplant(folder, unigram_folder, tmp_path / "out"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"transformer.wte.weight"}


def test_a_table_per_layer_may_be_smaller_than_the_vocabulary(tmp_path, make, byte_level_folder):
    """Gemma 3n takes its row 0 for ids beyond it, as for images and sounds."""
    rows = load_tokenizer(str(byte_level_folder)).vocabulary.num_ids
    folder = make("Gemma3nForCausalLM", "model", vocab_size_per_layer_input=rows - 40)
    target = write_tokenizer(tmp_path / "target", *_reversed(byte_level_folder))
    out = transplant(folder, target, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == config["vocab_size_per_layer_input"] == rows
    ids = torch.tensor([[5, rows - 1, 41, rows - 39, 1, 120, rows - 41]])
    if Version(transformers.__version__) < Version("5.21"):
        ids = ids[ids < rows - 40][None]  # there, ids beyond the table end in an IndexError
    was, _ = logits_of(folder, transformers.Gemma3nForCausalLM, ids)
    now, _ = logits_of(out, transformers.Gemma3nForCausalLM, rows - 1 - ids)
    torch.testing.assert_close(now.flip(-1), was)
    found = {f.check: f for f in run_checks(open_model(str(out)), open_model(str(folder)), run=False)}
    assert (found["untouched"].status, found["sizes"].status) == (Status.PASSED, Status.PASSED)
    restore(str(out), str(tmp_path / "back"))
    before, back = tensors_of(folder), tensors_of(tmp_path / "back")
    assert all(torch.equal(before[name], back[name]) for name in before)


def _reversed(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    from tokenizers_zoo import renumbered

    files = load_tokenizer(str(folder))
    last = files.vocabulary.num_ids - 1
    return renumbered(files.definition, lambda i: last - i), files.config


def test_without_a_class_mergekits_definition_has_to_do(tmp_path, make, unigram_folder, monkeypatch):
    known, unknown = make("LlamaForCausalLM", "known"), make("OPTForCausalLM", "unknown")
    expected = tensors_of(transplant(known, unigram_folder, tmp_path / "expected"))

    def fail(*_: Any) -> None:
        raise CannotBuild("transformers' class cannot be built: PIL is missing")

    monkeypatch.setattr(ModelClass, "load", fail)
    found = tensors_of(transplant(known, unigram_folder, tmp_path / "found"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(TokenAdaptError, match=r"PIL is missing, and mergekit has no definition of the architecture"):
        transplant(unknown, unigram_folder, tmp_path / "out")


def test_a_lost_table_is_seen_by_the_check(tmp_path, make, unigram_folder):
    folder = make("BartForConditionalGeneration", "model")
    out = with_tensors(transplant(folder, unigram_folder, tmp_path / "out"), {"final_logits_bias": None})
    found = {f.check: f for f in run_checks(open_model(str(out)), open_model(str(folder)), run=False)}
    assert "final_logits_bias is only in" in found["untouched"].message


def test_counters_and_masks_are_carried_over_whatever_the_dtype(tmp_path, make, unigram_folder):
    more = {
        "model.layers.0.num_batches_tracked": torch.tensor(70_001),
        "model.layers.0.mask": torch.tensor([True, False]),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(8),
    }
    folder = with_tensors(make("LlamaForCausalLM", "model"), more)
    after = tensors_of(transplant(folder, unigram_folder, tmp_path / "out", dtype="bfloat16"))
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in more.items())
    assert after["model.norm.weight"].dtype == torch.bfloat16


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, make, unigram_folder):
    folder = make("LlamaForCausalLM", "model")
    names = dict.fromkeys(tensors_of(folder), "model.safetensors")
    for change, message in (
        (("model.norm.weight", None), "not in its"),
        (("other", "model.safetensors"), "only in its"),
    ):
        index = {k: v for k, v in (names | dict([change])).items() if v is not None}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        with pytest.raises(TokenAdaptError, match=rf"{change[0]}: {message} index"):
            transplant(folder, unigram_folder, tmp_path / "out")


def test_a_file_beside_an_index_of_others_is_refused(tmp_path, make, unigram_folder):
    """transformers loads the file, and mergekit the shards of the index."""
    folder = make("LlamaForCausalLM", "model")
    shard = folder / "model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", shard)
    index = {"weight_map": dict.fromkeys(tensors_of(folder), shard.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TokenAdaptError, match=r"holds two sets of weights: model\.safetensors, and the 1 files"):
        transplant(folder, unigram_folder, tmp_path / "out")


def test_copies_of_the_weights_under_other_names_are_not_read(tmp_path, make, unigram_folder):
    """Some repositories hold ``model.fp16.safetensors`` or ``model_quantized.safetensors`` beside the weights."""
    folder = make("LlamaForCausalLM", "model")
    expected = tensors_of(transplant(folder, unigram_folder, tmp_path / "expected"))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors_of(folder).items()}
    for name in ("model.fp16.safetensors", "model_quantized.safetensors"):
        save_file(zeros, folder / name, metadata={"format": "pt"})
    after = tensors_of(transplant(folder, unigram_folder, tmp_path / "out"))
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())


# --- several models


def test_tensors_beyond_the_definition_are_merged_by_name(tmp_path, make, unigram_folder):
    """mergekit knows BERT's layers, and not the transform of its head."""
    models = [make("BertForMaskedLM", f"model-{seed}", seed) for seed in (0, 1)]
    out = merge(tmp_path / "out", linear(*models), unigram_folder)
    first, second, after = (loaded(folder, "BertForMaskedLM") for folder in (*models, out))
    name = "cls.predictions.transform.dense.weight"
    torch.testing.assert_close(after[name], (first[name] + second[name]) / 2)


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_published_mixtures_of_experts_can_be_merged(tmp_path, make, unigram_folder, name):
    models = [make(name, f"model-{seed}", seed) for seed in (0, 1)]
    out = merge(tmp_path / "out", linear(*models), unigram_folder)
    first, second, after = (loaded(folder, name) for folder in (*models, out))
    for key in after.keys() - {"model.embed_tokens.weight", "lm_head.weight"}:
        torch.testing.assert_close(after[key], (first[key] + second[key]) / 2)


def test_models_without_what_the_definition_asks_for_can_be_merged(tmp_path, make, unigram_folder):
    models = [make("Phi3ForCausalLM", f"model-{seed}", seed, tie_word_embeddings=True) for seed in (0, 1)]
    out = merge(tmp_path / "out", linear(*models), unigram_folder)
    assert tensors_of(out).keys() == tensors_of(models[0]).keys()


@pytest.mark.parametrize("name", ["OPTForCausalLM", "LlamaForCausalLM"])
def test_gradients_go_by_layers_as_in_mergekit(tmp_path, make, byte_level_folder, name):
    models = [make(name, f"model-{seed}", seed) for seed in (0, 1)]
    recipe = {
        "merge_method": "slerp",
        "base_model": str(models[0]),
        "models": [{"model": str(m)} for m in models],
        "parameters": {"t": [{"filter": "fc1", "value": [0, 1]}, {"value": [0.2, 0.9]}]},
    }
    stock, ours = (
        tensors_of(merge(tmp_path / n, recipe, t)) for n, t in (("stock", None), ("ours", byte_level_folder))
    )
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[key], ours[key]) for key in stock)


def test_models_that_hold_different_tensors_are_refused(tmp_path, make, unigram_folder):
    models = [make("OPTForCausalLM", f"model-{seed}", seed) for seed in (0, 1)]
    with_tensors(models[1], {"model.decoder.further.weight": torch.ones(3)})
    for pair in (models, models[::-1]):
        with pytest.raises(
            TokenAdaptError, match=r"model-1 holds tensors that .*model-0 does not \(model.decoder.further"
        ):
            merge(tmp_path / "out", linear(*pair), unigram_folder)


def test_slices_that_would_lose_tensors_are_refused(tmp_path, make, unigram_folder):
    folder = make("BertForMaskedLM", "model")
    slices = [{"sources": [{"model": str(folder), "layer_range": [0, 2]}]}]
    recipe = {"merge_method": "passthrough", "slices": slices}
    with pytest.raises(
        TokenAdaptError, match=r"leaves out 4 of its tensors \(cls\.predictions.*the recipe has slices or modules"
    ):
        merge(tmp_path / "out", recipe, unigram_folder)


# --- untied


@pytest.mark.parametrize(
    ("name", "options"), [("OPTForCausalLM", {}), ("Phi3ForCausalLM", {"tie_word_embeddings": True})]
)
def test_a_tied_model_of_any_architecture_can_be_untied(tmp_path, make, unigram_folder, name, options):
    folder = make(name, "model", **options)
    out = transplant(folder, unigram_folder, tmp_path / "out", untie=True)
    model = open_model(str(out))
    assert model.output_matrix == "lm_head.weight"
    assert torch.equal(model.rows("lm_head.weight"), model.rows(model.input_matrix))
    built = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert built.get_output_embeddings().weight is not built.get_input_embeddings().weight


def test_a_model_that_was_changed_is_read_again(tmp_path, make, unigram_folder):
    """mergekit keeps what it knows of a folder for as long as the process runs."""
    folder = make("LlamaForCausalLM", "model")
    transplant(folder, unigram_folder, tmp_path / "first")
    shutil.rmtree(folder)
    make("LlamaForCausalLM", "model", 1, num_hidden_layers=1)
    before, after = tensors_of(folder), tensors_of(transplant(folder, unigram_folder, tmp_path / "second"))
    assert before.keys() == after.keys()
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])


# --- tied matrices with several names


@pytest.mark.parametrize("name", ["MarianMTModel", "T5GemmaForConditionalGeneration", "T5ForConditionalGeneration"])
def test_a_tied_matrix_under_a_third_name_gets_the_rows_of_a_tied_one(tmp_path, make, gemma_style_folder, name):
    folder = make(name, "model", decoder_start_token_id=0)
    out = transplant(folder, gemma_style_folder, tmp_path / "out", method="calibrated")
    model = getattr(transformers, name).from_pretrained(folder)
    ta.adapt(model, str(folder), str(gemma_style_folder), method="calibrated")
    in_memory, on_disk = model.state_dict(), loaded(out, name)
    assert in_memory.keys() == on_disk.keys()
    for key, tensor in on_disk.items():
        torch.testing.assert_close(tensor, in_memory[key], rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["MarianMTModel", "T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_untie_of_an_encoder_decoder_is_refused_before_the_work(tmp_path, make, gemma_style_folder, name):
    """`tie_word_embeddings: false` unties the matrices of encoder and decoder, too."""
    folder = make(name, "model", decoder_start_token_id=0)
    with pytest.raises(TokenAdaptError, match="untie: encoder, decoder and output of this model share one matrix"):
        transplant(folder, gemma_style_folder, tmp_path / "out", untie=True)
    assert not (tmp_path / "out").exists()


def test_both_names_of_a_tied_matrix_get_corrected_rows(tmp_path, make, gemma_style_folder):
    (text := tmp_path / "text.txt").write_text("\n\n".join(CORPUS * 8))
    folder = make("LlamaForCausalLM", "model", tie_word_embeddings=True)
    with_tensors(folder, {"lm_head.weight": tensors_of(folder)["model.embed_tokens.weight"].clone()})
    out = transplant(folder, gemma_style_folder, tmp_path / "out", method="calibrated", calibration_text=str(text))
    after = tensors_of(out)
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])


@pytest.mark.parametrize("place", [0, 1])
def test_a_tied_model_in_a_merge_may_store_its_matrix_as_the_output(tmp_path, make, unigram_folder, place):
    models = [make("LlamaForCausalLM", f"model-{n}", seed=n, tie_word_embeddings=True) for n in range(2)]
    expected = tensors_of(merge(tmp_path / "expected", linear(*models), unigram_folder))
    matrix = tensors_of(models[place])["model.embed_tokens.weight"]
    with_tensors(models[place], {"lm_head.weight": matrix, "model.embed_tokens.weight": None})
    found = loaded(merge(tmp_path / "out", linear(*models), unigram_folder), "LlamaForCausalLM")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "OlmoeForCausalLM"])
@pytest.mark.parametrize("tied_first", [True, False])
def test_a_merge_of_a_tied_and_an_untied_model_has_two_matrices(tmp_path, make, unigram_folder, name, tied_first):
    models = [make(name, f"model-{tied}", seed=tied, tie_word_embeddings=tied) for tied in (tied_first, not tied_first)]
    alone = [tensors_of(transplant(m, unigram_folder, tmp_path / f"out-{m.name}", untie=True)) for m in models]
    out = merge(tmp_path / "out", linear(*models), unigram_folder)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    after = tensors_of(out)
    assert after.keys() == alone[0].keys()
    for matrix in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(after[matrix], (alone[0][matrix] + alone[1][matrix]) / 2)
