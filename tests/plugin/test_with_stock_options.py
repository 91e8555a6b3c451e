"""Recipes as stock mergekit takes them: slices, steps, anchors, adapters, and folders that hold an earlier output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import patched_config
from safetensors.torch import save_file
from small_models import small_config, small_model
from transplanting import tensors_of

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output import folder as folder_module
from mergekit_tokenadapt.plugin.misplaced import check_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

Make = Callable[..., Path]


@pytest.fixture
def pair(tmp_path: Path, byte_level_folder: Path, gemma_style_folder: Path, tiny_model_folder: Make) -> list[Path]:
    """Two untied models with different tokenizers."""
    folders = (byte_level_folder, gemma_style_folder)
    return [tiny_model_folder(f, tmp_path / f"model-{n}", tied=False, seed=n) for n, f in enumerate(folders)]


def merged(
    out: Path, recipe: dict[str, Any], target: Path, *, adapt: dict[str, Any] | None = None, **options: Any
) -> Path:
    """Run a recipe as `mergekit-yaml` does."""
    ta.activate()
    whole = {**recipe, "tokenizer": {"source": str(target), "adapt": {"method": "mean", **(adapt or {})}}}
    run_merge(MergeConfiguration.model_validate(whole), str(out), MergeOptions(quiet=True, **options))
    return out


def linear(*models: Path) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]}


def sources(*parts: tuple[Path, int, int]) -> dict[str, Any]:
    parameters = {"weight": 1.0}
    return {"sources": [{"model": str(m), "layer_range": [a, b], "parameters": parameters} for m, a, b in parts]}


# --- a folder with an earlier output


def test_no_file_of_an_earlier_output_stays(tmp_path, pair, unigram_folder, byte_level_folder):
    first = merged(tmp_path / "out", linear(pair[0]), byte_level_folder)
    assert (first / "model.safetensors").is_file()
    (first / "chat_template.jinja").write_text("old")
    again = merged(first, linear(pair[1]), unigram_folder, out_shard_size=40_000)
    fresh = merged(tmp_path / "fresh", linear(pair[1]), unigram_folder, out_shard_size=40_000)
    names = {file.relative_to(again) for file in again.rglob("*")}
    assert names == {file.relative_to(fresh) for file in fresh.rglob("*")}
    model, same = (transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (again, fresh))
    assert all(torch.equal(model[name], same[name]) for name in same)


def test_a_run_that_did_not_finish_may_be_repeated(tmp_path, pair, unigram_folder, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folder_module.OutputFolder, "_write_tokenizer", fail)
        with pytest.raises(KeyboardInterrupt):
            merged(tmp_path / "out", linear(pair[0]), unigram_folder, write_model_card=False)
    assert (tmp_path / "out" / "config.json").is_file()
    out = merged(tmp_path / "out", linear(pair[0]), unigram_folder, write_model_card=False)
    assert not list(out.glob(".*"))


def test_an_input_is_not_written_over(pair, unigram_folder):
    before = tensors_of(pair[0])
    with pytest.raises(TokenAdaptError, match="is the folder of an input model"):
        merged(pair[0], linear(*pair), unigram_folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(pair[0]).items())


def test_nothing_that_the_recipe_reads_is_deleted(tmp_path, pair, with_adapter, unigram_folder):
    """Not the model under an adapter, even where mergekit made it, nor the target, nor a template in the output."""
    (pair[0] / "mergekit_config.yml").write_text("models: []")
    target = Path(shutil.copytree(unigram_folder, tmp_path / "target"))
    (template := tmp_path / "out" / "own.jinja").parent.mkdir()
    template.write_text("{{ messages }}")
    recipe = {"merge_method": "passthrough", "models": [{"model": with_adapter}]}
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for out, adapt, reason in (
        (pair[0], {}, "is the folder of an input model or tokenizer"),
        (target, {}, "is the folder of an input model or tokenizer"),
        (template.parent, {"chat_template": str(template)}, "own.jinja is read by the recipe"),
    ):
        with pytest.raises(TokenAdaptError, match=reason):
            merged(out, recipe, target, adapt=adapt, lora_merge_cache=str(tmp_path / "cache"))
    assert all(file.read_bytes() == content for file, content in before.items())


def test_tokenizer_files_of_another_origin_are_not_deleted(tmp_path, pair, unigram_folder):
    (there := tmp_path / "out" / "vocab.txt").parent.mkdir()
    there.write_text("mine")
    with pytest.raises(TokenAdaptError, match=r"holds a model that mergekit did not write \(vocab\.txt\)"):
        merged(there.parent, linear(pair[0]), unigram_folder)
    assert there.read_text() == "mine"


def test_a_model_of_another_origin_is_not_written_over(
    tmp_path, pair, unigram_folder, byte_level_folder, tiny_model_folder
):
    other = tiny_model_folder(byte_level_folder, tmp_path / "other")
    with pytest.raises(TokenAdaptError, match=r"holds a model that mergekit did not write \(model\.safetensors\)"):
        merged(other, linear(*pair), unigram_folder)


# --- slices


def test_slices_may_have_different_numbers_of_sources(tmp_path, pair, unigram_folder):
    a, b = pair
    alone = [tensors_of(merged(tmp_path / f"alone-{m.name}", linear(m), unigram_folder)) for m in pair]
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    for n, slices in enumerate(
        ([sources((a, 0, 1), (b, 0, 1)), sources((a, 1, 2))], [sources((a, 0, 1)), sources((a, 1, 2), (b, 1, 2))])
    ):
        out = tensors_of(merged(tmp_path / f"out-{n}", {"merge_method": "linear", "slices": slices}, unigram_folder))
        first, last = (mean, alone[0]) if n == 0 else (alone[0], mean)
        torch.testing.assert_close(out["model.embed_tokens.weight"], first["model.embed_tokens.weight"])
        torch.testing.assert_close(out["lm_head.weight"], last["lm_head.weight"])


def test_the_last_slice_may_be_of_a_tied_model(tmp_path, pair, unigram_folder, gemma_style_folder, tiny_model_folder):
    tied = tiny_model_folder(gemma_style_folder, tmp_path / "tied", seed=3)
    slices = [sources((pair[0], 0, 2)), sources((tied, 0, 2))]
    out = merged(tmp_path / "out", {"merge_method": "passthrough", "slices": slices}, unigram_folder)
    alone = tensors_of(merged(tmp_path / "alone", linear(tied), unigram_folder))
    assert torch.equal(tensors_of(out)["lm_head.weight"], alone["model.embed_tokens.weight"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("name", ["Qwen3", "Gemma2"])
def test_lists_with_an_entry_for_each_layer_follow_the_slices(tmp_path, gemma_style_folder, unigram_folder, name):
    """Without them transformers refuses the config, or a layer attends in another way than it was trained to."""
    tokenizer = load_tokenizer(str(gemma_style_folder))
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = small_config(
        getattr(transformers, f"{name}Config"), tokenizer.vocabulary.num_ids, num_hidden_layers=3, layer_types=kinds
    )
    small_model(getattr(transformers, f"{name}ForCausalLM"), config).save_pretrained(tmp_path / "model")
    tokenizer.copy_to(tmp_path / "model")
    slices = [sources((tmp_path / "model", 0, 2)), sources((tmp_path / "model", 1, 3))]
    out = merged(tmp_path / "out", {"merge_method": "passthrough", "slices": slices}, unigram_folder)
    found = transformers.AutoModelForCausalLM.from_pretrained(str(out)).config
    assert found.layer_types == kinds[:2] + kinds[1:]


def test_a_slice_may_name_the_base_model_that_fills_rows(
    tmp_path, pair, unigram_folder, sentencepiece_bpe_folder, tiny_model_folder
):
    base = tiny_model_folder(sentencepiece_bpe_folder, tmp_path / "base", tied=False, seed=2)
    recipe = {"merge_method": "task_arithmetic", "parameters": {"weight": 1.0}}
    both = sources((base, 0, 2), (pair[0], 0, 2))
    adapt = {"missing_rows": "base_model"}
    by_recipe, by_slice = (
        tensors_of(merged(tmp_path / f"out-{n}", recipe | more, unigram_folder, adapt=adapt))
        for n, more in enumerate(
            ({"base_model": str(base), "slices": [both]}, {"slices": [both | {"base_model": str(base)}]})
        )
    )
    assert by_recipe.keys() == by_slice.keys()
    assert all(torch.equal(by_recipe[name], by_slice[name]) for name in by_recipe)


def test_rows_of_a_base_model_that_is_no_source_are_not_left_out_in_silence(
    tmp_path, pair, unigram_folder, sentencepiece_bpe_folder, tiny_model_folder
):
    base = tiny_model_folder(sentencepiece_bpe_folder, tmp_path / "base", tied=False, seed=2)
    recipe = {"merge_method": "passthrough", "base_model": str(base), "slices": [sources((pair[0], 0, 2))]}
    with pytest.raises(TokenAdaptError, match=r"none of the models that model\.embed_tokens\.weight is made of"):
        merged(tmp_path / "out", recipe, unigram_folder, adapt={"missing_rows": "base_model"})


# --- position tables


def test_position_tables_of_different_lengths_are_refused_before_the_merge(
    tmp_path, gemma_style_folder, sentencepiece_bpe_folder
):
    models = []
    for n, folder in enumerate((gemma_style_folder, sentencepiece_bpe_folder)):
        tokenizer = load_tokenizer(str(folder))
        ids = {f"{role}_token_id": tokenizer.vocabulary.roles[role] for role in ("bos", "eos", "pad")}
        config = small_config(transformers.RobertaConfig, tokenizer.vocabulary.num_ids, **ids)
        small_model(transformers.RobertaForMaskedLM, config, seed=n).save_pretrained(tmp_path / f"model-{n}")
        models.append(tokenizer.copy_to(tmp_path / f"model-{n}") or tmp_path / f"model-{n}")
    with pytest.raises(TokenAdaptError, match="the models' tables then differ in length"):
        merged(tmp_path / "out", linear(*models), gemma_style_folder)
    assert not list(tmp_path.glob("out/*.safetensors"))


# --- what mergekit's definition leaves out


def test_only_tensors_that_cannot_be_merged_are_left_out(tmp_path, pair, unigram_folder, caplog):
    for n, folder in enumerate(pair):
        more = {"model.mtp.proj.weight": torch.full((2, 2), float(n))} | (
            {"v_head.weight": torch.ones(1, 3)} if n == 0 else {}
        )
        save_file({**tensors_of(folder), **more}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TokenAdaptError, match=r"leaves out 1 of its tensors \(v_head\.weight\)"):
        merged(tmp_path / "refused", linear(*pair), unigram_folder)
    out = tensors_of(merged(tmp_path / "out", linear(*pair), unigram_folder, allow_crimes=True))
    assert torch.equal(out["model.mtp.proj.weight"], torch.full((2, 2), 0.5))
    assert "v_head.weight" not in out
    assert "they are left out" in caplog.text


# --- values


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"dtype": "torch.bfloat16"}, "dtype: takes bfloat16, float16, float32 or float64, not 'torch.bfloat16'"),
        ({"chat_template": "foo"}, "chat_template: takes auto, a template, or one of alpaca, .*, not 'foo'"),
    ],
)
def test_values_that_mergekit_refuses_last(tmp_path, pair, unigram_folder, keys, reason):
    with pytest.raises(TokenAdaptError, match=reason):
        merged(tmp_path / "out", {**linear(pair[0]), **keys}, unigram_folder)
    assert not list(tmp_path.glob("out/*"))


def test_a_step_of_mergekit_multi_may_be_called_like_a_value_of_ours(pair, unigram_folder):
    ta.activate()
    tokenizer = {"source": str(unigram_folder), "adapt": {"method": "hybrid", "token_map": {"mean": "composed"}}}
    config = MergeConfiguration.model_validate({**linear(Path("mean")), "tokenizer": tokenizer})
    patched, used = patched_config(config, ["mean", "hybrid", "composed", "ngram"], "work")
    assert used == {"mean"}
    assert str(patched.models[0].model) == "work/mean"
    assert isinstance(patched.tokenizer.adapt, AdaptConfig)
    assert patched.tokenizer.adapt == config.tokenizer.adapt
    assert yaml.safe_load(config.to_yaml())["tokenizer"]["adapt"]["method"] == "hybrid"


@pytest.mark.parametrize(
    "text",
    [
        "x: &t {source: a, adapt: {method: mean}}\ntokenizer: *t",
        "x-adapt: &t {method: mean}\ntokenizer: {source: a, adapt: *t}",
        "adapter: {r: 8}\nmetadata: {adapted: null}",
    ],
)
def test_anchors_and_keys_of_other_tools_are_no_misplaced_blocks(text):
    check_recipe(yaml.safe_load(text))


# --- adapters


@pytest.fixture
def with_adapter(tmp_path: Path, pair: list[Path]) -> str:
    from peft import LoraConfig, get_peft_model

    model = transformers.AutoModelForCausalLM.from_pretrained(pair[0])
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    (pair[0] / "README.md").write_text("---\nlicense: mit\n---\n")
    return f"{pair[0]}+{tmp_path / 'adapter'}"


def test_a_model_with_an_adapter_has_the_base_models_files(tmp_path, pair, with_adapter, unigram_folder):
    recipe = {"merge_method": "passthrough", "models": [{"model": with_adapter}]}
    out = merged(
        tmp_path / "out", recipe, unigram_folder, adapt={"method": "hidden"}, lora_merge_cache=str(tmp_path / "c")
    )
    card = (out / "README.md").read_text()
    assert "license: mit" in card
    assert f"- {pair[0].name}\n" in card
