"""Recipes with `extend`: the model keeps its tokenizer and its rows, and gets more of both."""

import json

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoTokenizer
from transplanting import EMBEDDINGS, tensors_of, transplant

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.vocabulary_extension.extend import extended


@pytest.fixture(scope="module")
def model(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("models") / "model", dtype=torch.bfloat16)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("नदी पुरानी चक्की के पास बहती है। Nothing is heavier than wet flour.\n" * 3, encoding="utf-8")
    return file


@pytest.mark.parametrize("method", ["mean", "hybrid", "calibrated"])
def test_old_rows_stay_bit_for_bit(method, model, unigram_folder, tmp_path):
    out = transplant(model, unigram_folder, tmp_path / "out", method=method, extend={})
    old, new = tensors_of(model), tensors_of(out)
    base = load_tokenizer(str(model))
    wanted = extended(base, load_tokenizer(str(unigram_folder)), None, None)
    assert len(new[EMBEDDINGS]) == base.vocabulary.num_ids + len(wanted.appended) + len(wanted.helpers)
    for name, tensor in old.items():
        rows = new[name][: base.vocabulary.num_ids] if name == EMBEDDINGS else new[name]
        assert torch.equal(rows, tensor[: len(rows)]), name
    assert new[EMBEDDINGS].isfinite().all()
    assert new[EMBEDDINGS][base.vocabulary.num_ids :].float().norm(dim=1).min() > 0


def test_the_output_has_the_extended_tokenizer_and_says_what_was_appended(model, unigram_folder, tmp_path, text):
    out = transplant(model, unigram_folder, tmp_path / "out", extend={"tokens": 8, "text": str(text)})
    old, new = AutoTokenizer.from_pretrained(str(model)), AutoTokenizer.from_pretrained(str(out))
    line = text.read_text(encoding="utf-8")
    assert len(new(line).input_ids) < len(old(line).input_ids)
    assert new.decode(new(line).input_ids) == line
    assert new.chat_template == old.chat_template
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(new, role) == getattr(old, role)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    record = manifest["extension"]
    assert record["appended"] + record["needed_by_merges"] == 8 == len(new) - len(old)
    assert record["tokens_of"] == str(unigram_folder)
    assert record["text"]["bytes"] == text.stat().st_size
    assert manifest["adapt"]["extend"] == {"tokens": 8, "text": str(text)}
    rows = manifest["inputs"][0]["rows_by_reason"]
    assert rows["new"] == 8


def test_the_same_recipe_writes_the_same_bytes(model, unigram_folder, tmp_path, text):
    folders = [
        transplant(model, unigram_folder, tmp_path / name / "out", extend={"tokens": 12, "text": str(text)})
        for name in ("a", "b")
    ]
    files = [{f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_a_second_model_adapts_to_the_extended_tokenizer(
    model, gemma_style_folder, unigram_folder, tiny_model_folder, tmp_path
):
    """Any merge: the output's tokenizer is that of the first model, extended."""
    from mergekit.options import MergeOptions

    from mergekit_tokenadapt.plugin.transplant import run_recipe

    other = tiny_model_folder(gemma_style_folder, tmp_path / "other", dtype=torch.bfloat16, seed=3)
    recipe = {
        "merge_method": "linear",
        "dtype": "bfloat16",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (model, other)],
        "tokenizer": {"source": str(unigram_folder), "adapt": {"method": "mean", "extend": {"tokens": 9}}},
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    assert len(tensors_of(out)[EMBEDDINGS]) == load_tokenizer(str(model)).vocabulary.num_ids + 9


def test_flags(model, unigram_folder, tmp_path, text):
    arguments = [str(model), str(unigram_folder), "--extend", "tokens=8", "--extend", f"text={text}"]
    command = ["transplant", *arguments, str(tmp_path / "out"), "--method", "mean"]
    printed = CliRunner().invoke(main, [*command, "--print-recipe"], catch_exceptions=False)
    assert f"extend:\n      text: {text}\n      tokens: 8\n" in printed.output.replace(
        f"tokens: 8\n      text: {text}", f"text: {text}\n      tokens: 8"
    )
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "appended tokens:" in done.output
    assert f"of {unigram_folder}" in done.output
    planned = CliRunner().invoke(main, ["plan", *arguments, "--json"], catch_exceptions=False)
    assert json.loads(planned.output)["rows_by_reason"]["new"] == 8


def test_a_plan_from_python(model, unigram_folder):
    plan = ta.make_plan(model, unigram_folder, method="mean", extend={"tokens": 5})
    assert plan.counts()["new"] == 5
    assert plan.num_rows == load_tokenizer(str(model)).vocabulary.num_ids + 5


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        ({"extend": {"tokens": 0}}, "extend: takes all or a number greater than 0, not 0|tokens.*greater than 0"),
        ({"extend": {"token": 3}}, "unknown option 'token'"),
        ({"extend": 3}, "extend: takes keys with values"),
        ({"extend": {"text": "./no-such-file"}}, "extend.text.*there is no file or folder"),
        ({"extend": {}, "method": "omp"}, "extend: the method omp needs a model that has a row for each token"),
    ],
)
def test_wrong_options_are_one_line(adapt, message, model, unigram_folder, tmp_path):
    with pytest.raises(TokenAdaptError, match=message) as caught:
        transplant(model, unigram_folder, tmp_path / "out", **adapt)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_has_nothing_to_append(model, wordpiece_folder, byte_level_folder, tiny_model_folder, tmp_path):
    with pytest.raises(TokenAdaptError, match="it has all of them"):
        transplant(model, byte_level_folder, tmp_path / "out", extend={})
    with pytest.raises(TokenAdaptError, match="the tokenizer is the base's own"):
        transplant(model, "base", tmp_path / "out", extend={})
    bert = tiny_model_folder(wordpiece_folder, tmp_path / "bert")
    with pytest.raises(TokenAdaptError, match="is a WordPiece tokenizer"):
        transplant(bert, byte_level_folder, tmp_path / "out", extend={})
    assert not (tmp_path / "out").exists()


def test_adapt_in_memory_has_no_folder_for_the_tokenizer(model, unigram_folder):
    with pytest.raises(TokenAdaptError, match=r"extend: adapt\(\) has no folder"):
        ta.adapt(None, model, unigram_folder, extend={})
