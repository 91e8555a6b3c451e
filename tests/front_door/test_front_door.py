"""`import mergekit_tokenadapt as ta`: the functions, by name and by object, and what importing it costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from small_models import small_config, small_model
from transplanting import EMBEDDINGS, HEAD, tensors_of
from transplanting import transplant as by_recipe

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mergekit_tokenadapt"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


# --- the door itself -----------------------------------------------------------------------------


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "torch, transformers, mergekit, numpy, pydantic, tokenizers, click"
    code = (
        "import sys; before = set(sys.modules); import mergekit_tokenadapt\n"
        f"print(sorted((set(sys.modules) - before) & set({heavy!r}.split(', '))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_sorted_and_documented() -> None:
    assert len(set(ta.__all__)) == len(ta.__all__)
    for name in ta.__all__:
        value = getattr(ta, name)
        assert name in dir(ta)
        assert name == "__version__" or (value.__doc__ or "").strip(), f"{name} is not documented"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ta.nothing
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in ta.__all__ if f"`{name}`" not in page] == []


def test_the_core_is_put_together_in_one_place() -> None:
    """A `Transfer` is made by `Transfer.of` only, and a `TransferPlan` in planning.py and plan_files.py only."""

    def callers(folder: Path, name: str) -> set[str]:
        """Files that call it; only those that mention a call are parsed."""
        sources = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.py"))}
        trees = {file: ast.parse(source) for file, source in sources.items() if f"{name}(" in source}
        calls = {file: [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)] for file, tree in trees.items()}
        return {file for file, made in calls.items() if any(isinstance(f, ast.Name) and f.id == name for f in made)}

    assert callers(PACKAGE, "Transfer") == set()
    assert callers(PACKAGE, "TransferPlan") == {"planning.py", "plan_files.py"}
    for folder in ("benchmarks", "examples", "tests"):
        assert callers(ROOT / folder, "Transfer") == set()


# --- plans ---------------------------------------------------------------------------------------


@pytest.fixture
def base(byte_level_folder: Path, tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Path:
    return tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)


@pytest.mark.parametrize("method", ["mean", "hybrid", "calibrated"])
def test_a_plan_makes_the_rows_that_the_command_writes(
    base: Path, gemma_style_folder: Path, tmp_path: Path, method: str
) -> None:
    plan = ta.make_plan(base, gemma_style_folder, method=method, quiet=True)
    out = tensors_of(by_recipe(base, gemma_style_folder, tmp_path / "out", method=method))
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert torch.equal(plan.apply(model.get_input_embeddings().weight), out[EMBEDDINGS])
    assert torch.equal(plan.apply(model.get_output_embeddings().weight, use="output"), out[HEAD])
    assert not plan.apply(model.get_input_embeddings().weight).requires_grad
    plan.save(tmp_path / "plan")
    assert (tmp_path / "plan").read_bytes() == (tmp_path / "out" / "tokenadapt.plan").read_bytes()
    assert sum(plan.counts()[kind] for kind in ("copied", "special", "new", "padding")) == plan.num_rows


@pytest.mark.parametrize("method", ["mean", "calibrated"])
def test_a_plan_explains_as_the_command_does(base: Path, gemma_style_folder: Path, method: str) -> None:
    plan = ta.make_plan(base, gemma_style_folder, method=method, quiet=True)
    ids = [*range(0, plan.num_rows, 9), 3]
    flags = [flag for row in ids for flag in ("--id", str(row))]
    command = ["explain", str(base), str(gemma_style_folder), "--method", method, "--quiet", *flags]
    printed = CliRunner().invoke(main, command).stdout
    assert printed == "".join(f"{plan.explain(row)}\n" for row in ids)
    data = CliRunner().invoke(main, [*command, "--json"]).stdout
    assert json.loads(data) == json.loads(json.dumps([plan.explain(row).as_dict() for row in ids]))
    text = next(row.text for row in map(plan.explain, ids) if row.reason == "new" and row.method)
    assert text is not None
    assert plan.explain(text).text == text
    with pytest.raises(ta.TokenAdaptError, match="is not one token"):
        plan.explain("no token at all")


def test_a_plan_of_loaded_tokenizers(base: Path, gemma_style_folder: Path) -> None:
    named = ta.make_plan(base, gemma_style_folder, method="mean")
    old, new = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (base, gemma_style_folder))
    loaded = ta.make_plan(old, new, method="mean", base_rows=named.transfer.base_rows)
    matrix = torch.randn(named.transfer.base_rows, 3)
    assert torch.equal(named.apply(matrix), loaded.apply(matrix))
    with pytest.raises(ta.TokenAdaptError, match="a tokenizer is a folder, a hub id, or a tokenizer that"):
        ta.make_plan(base, 3)
    with pytest.raises(ta.TokenAdaptError, match="did you mean 'temperature'"):
        ta.make_plan(base, gemma_style_folder, method="hybrid", temprature=3)


# --- models in memory ----------------------------------------------------------------------------


def check_adapted(model: Any, tokenizer: Any, target: Path, tmp_path: Path, **options: Any) -> None:
    """Adapted in memory, a model is what its folder becomes by a transplant."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    out = by_recipe(tmp_path / "model", target, tmp_path / "out", **options)
    ta.adapt(model, tokenizer, target, quiet=True, **{"method": "mean", **options})
    model.save_pretrained(tmp_path / "adapted")
    written, adapted = tensors_of(out), tensors_of(tmp_path / "adapted")
    assert written.keys() == adapted.keys()
    assert [name for name in written if not torch.equal(written[name], adapted[name])] == []
    for name in ("config.json", "generation_config.json"):
        if (out / name).is_file():
            ours, theirs = (json.loads((folder / name).read_text()) for folder in (out, tmp_path / "adapted"))
            keys = {key for key in ours | theirs if key.endswith(("_id", "_ids", "vocab_size", "embeddings"))}
            assert {key: theirs.get(key) for key in keys} == {key: ours.get(key) for key in keys}
    loaded = type(model).from_pretrained(out)
    ids = torch.arange(12).reshape(1, 12) % 100
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        assert torch.equal(model.eval()(ids, **more).logits, loaded.eval()(ids, **more).logits)
    for (name, module), (_, other) in zip(model.named_modules(), loaded.named_modules(), strict=True):
        for key in ("num_embeddings", "out_features", "padding_idx", "vocab_size"):
            assert getattr(module, key, None) == getattr(other, key, None), f"{name}.{key}"


@pytest.mark.parametrize(("tied", "untie"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("rows", [None, 600])
def test_an_adapted_model_is_what_transplant_writes(
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tmp_path: Path,
    tiny_model_folder: Callable[..., Path],
    tied: bool,
    untie: bool,
    rows: int | None,
) -> None:
    folder = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied, rows=rows)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    method = {"method": "calibrated"} if rows is None else {}
    more = {} if rows is None else {"rows": 700}
    check_adapted(
        model, tokenizer, gemma_style_folder, tmp_path, **method, **more, **({"untie": True} if untie else {})
    )
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == (tied and not untie)


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "PhiForCausalLM",
        "T5ForConditionalGeneration",
        "BartForConditionalGeneration",
        "BertForMaskedLM",
        "Gemma3nForCausalLM",  # tables per layer
    ],
)
def test_models_with_biases_and_several_ties(
    byte_level_folder: Path, gemma_style_folder: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(byte_level_folder)
    model_class = getattr(transformers, name)
    ids = {key: getattr(tokenizer, key) for key in IDS}
    config = small_config(model_class.config_class, len(tokenizer), **ids)
    check_adapted(small_model(model_class, config), tokenizer, gemma_style_folder, tmp_path)


def test_there_and_back_again(base: Path, byte_level_folder: Path, gemma_style_folder: Path) -> None:
    """Copied rows come back bit for bit; gradients flow, and the model generates, in between."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    before = model.get_input_embeddings().weight.detach().clone()
    target = ta.load_tokenizer(gemma_style_folder)
    there = ta.adapt(model, ta.load_tokenizer(base), target, method="mean", quiet=True)
    assert "method mean" in repr(there)
    ids = model.generate(torch.arange(4).reshape(1, 4) + 300, max_new_tokens=3)
    model(ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad.shape == (there.num_rows, 32)
    back = ta.adapt(model, target, byte_level_folder, method="mean", quiet=True)
    sources = torch.from_numpy(there.rows.mapping.sources)[torch.from_numpy(back.rows.mapping.sources)]
    same = (torch.from_numpy(back.rows.mapping.sources) >= 0) & (sources == torch.arange(len(sources)))
    assert same.sum() > 400
    assert torch.equal(model.get_input_embeddings().weight[same], before[same])


def test_what_only_a_folder_can_is_refused(base: Path, gemma_style_folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for options in ({"calibration_text": "default"}, {"save_plan": False}, {"chat_template": "base"}):
        with pytest.raises(ta.TokenAdaptError, match=r"use transplant\(\)"):
            ta.adapt(model, base, gemma_style_folder, **options)
    with pytest.raises(ta.TokenAdaptError, match="takes a model of transformers, not Linear"):
        ta.adapt(torch.nn.Linear(2, 2), base, gemma_style_folder)
    meta = transformers.AutoModelForCausalLM.from_pretrained(base).to("meta")
    with pytest.raises(ta.TokenAdaptError, match="is not in memory"):
        ta.adapt(meta, base, gemma_style_folder)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ta.TokenAdaptError, match="quantised"):
        ta.adapt(model, base, gemma_style_folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_objects_where_a_folder_or_a_tensor_is_needed_are_refused(
    base: Path, gemma_style_folder: Path, tmp_path: Path
) -> None:
    loaded, out = object(), tmp_path / "out"
    plan = ta.make_plan(base, gemma_style_folder, method="mean", quiet=True)
    for call, said in (
        (lambda: ta.transplant(loaded, gemma_style_folder, out), "base is a folder or hub id, not an object object"),
        (lambda: ta.transplant(base, loaded, out), "target is a folder or hub id.*save_pretrained"),
        (lambda: ta.heal(loaded, out), "model is a folder or hub id"),
        (lambda: ta.compare(base, loaded), "a model is a folder or hub id"),
        (lambda: plan.apply([[1.0]]), "a matrix is a tensor of torch, not an object list"),
        (lambda: plan.explain(None), "a token is its text, its spelling or its id, not None"),
        (lambda: ta.make_plan(base, gemma_style_folder, base_rows=0), "base_rows: takes a number above 0, not 0"),
        (lambda: ta.make_plan(base, gemma_style_folder, pad_to_multiple_of=0), "pad_to_multiple_of: takes a number"),
        (lambda: ta.transplant(base, gemma_style_folder, out, pad_to_multiple_of=0), "pad_to_multiple_of: takes a num"),
    ):
        with pytest.raises(ta.TokenAdaptError, match=said):
            call()
    assert not out.exists()


def test_positions_that_follow_the_pad_token_are_refused(
    byte_level_folder: Path, unigram_folder: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(byte_level_folder)
    config = small_config(transformers.RobertaConfig, len(tokenizer), pad_token_id=5)
    model = small_model(transformers.RobertaForMaskedLM, config)
    with pytest.raises(ta.TokenAdaptError, match="counts positions from its pad token's id"):
        ta.adapt(model, tokenizer, unigram_folder, method="mean", quiet=True)


# --- folders and reports -------------------------------------------------------------------------


def test_transplant_writes_what_the_command_writes(base: Path, gemma_style_folder: Path, tmp_path: Path) -> None:
    out = ta.transplant(base, gemma_style_folder, tmp_path / "out", method="mean", quiet=True)
    other = by_recipe(base, gemma_style_folder, tmp_path / "other", method="mean")
    assert tensors_of(out).keys() == tensors_of(other).keys()
    assert all(torch.equal(tensor, tensors_of(other)[name]) for name, tensor in tensors_of(out).items())
    with pytest.raises(ta.TokenAdaptError, match="exists"):
        ta.transplant(base, gemma_style_folder, out, method="mean", quiet=True)
    with pytest.raises(ta.TokenAdaptError, match="did you mean 'untie'"):
        ta.transplant(base, gemma_style_folder, out, unty=True)


def test_a_comparison_is_printed_and_saved(base: Path, tmp_path: Path) -> None:
    result = ta.compare(base, base, builtin=["en"], max_bytes=200, resamples=100)
    assert "Bits per byte" in str(result)
    assert result.save(tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads(result.save(tmp_path / "report.json").read_text())["command"] == "compare"
    with pytest.raises(ta.TokenAdaptError, match=r"saved as \.html or \.json"):
        result.save(tmp_path / "report.pdf")
    with pytest.raises(ta.TokenAdaptError, match="windows"):
        ta.compare(base, base, windows=3)
