"""After a transplant: what became of the tokens, in our commands on the screen, in stock ones in the log."""

import json
import logging
import re
import shutil

import pytest
import yaml
from click.testing import CliRunner
from mergekit.scripts import run_yaml
from transformers import AutoTokenizer

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.output import change_report as reports
from mergekit_tokenadapt.plugin import reporting
from mergekit_tokenadapt.texts import LANGUAGES, builtin_text
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("reports") / "base")


def transplant(*args):
    result = CliRunner().invoke(main, ["transplant", *map(str, args), "--method", "mean"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def stock(tmp_path, recipe, *options):
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(run_yaml.main, [str(tmp_path / "recipe.yml"), str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output


def recipe_of(base, target):
    return {
        "merge_method": "passthrough",
        "models": [{"model": str(base)}],
        "tokenizer": {"source": str(target), "adapt": {"method": "mean"}},
    }


def test_a_transplant_says_what_became_of_every_row(tmp_path, base, gemma_style_folder):
    result = transplant(base, gemma_style_folder, tmp_path / "out")
    rows = load_plan(tmp_path / "out" / "tokenadapt.plan").num_rows
    kinds = dict(re.findall(r"^(copied|special|composed|mean|padding) +([\d,]+)", result.stdout, re.MULTILINE))
    assert sum(int(n.replace(",", "")) for n in kinds.values()) == rows
    assert f"-> {rows}" in result.stdout
    assert re.search(r"^digits: +\S", result.stdout, re.MULTILINE)
    assert re.search(r"^chat template: +\S", result.stdout, re.MULTILINE)
    assert re.search(r"^eos <eos>: +row of ", result.stdout, re.MULTILINE)
    assert f"mergekit-tokenadapt-eval check {tmp_path / 'out'} --base {base}" in result.stderr
    for name, folder in (("before", base), ("after", gemma_style_folder)):
        text = builtin_text("prose")
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        tokens = sum(len(tokenizer(d, add_special_tokens=False).input_ids) for d in text.documents)
        shown = re.search(r"^English prose +(?P<before>\S+) +(?P<after>\S+)", result.stdout, re.MULTILINE)
        assert shown is not None
        assert shown[name] == f"{tokens / text.num_bytes:.3f}"


def test_the_next_command_runs(tmp_path, base, gemma_style_folder):
    from mergekit_tokenadapt.cli.evaluate import main as evaluate

    result = transplant(base, gemma_style_folder, tmp_path / "out")
    command = next(
        line for line in result.stderr.splitlines() if line.startswith("next: mergekit-tokenadapt-eval check")
    )
    checked = CliRunner().invoke(evaluate, command.split("  #")[0].split()[2:])
    assert checked.exit_code == 0, checked.output


def test_quiet_prints_nothing(tmp_path, base, gemma_style_folder):
    assert transplant(base, gemma_style_folder, tmp_path / "out", "--quiet").output == ""


def test_stock_commands_log_the_report_once(tmp_path, base, gemma_style_folder, caplog):
    with caplog.at_level(logging.INFO):
        stock(tmp_path, recipe_of(base, gemma_style_folder), "-v")
    assert caplog.text.count("Tokens per byte of the built-in texts") == 1
    assert caplog.text.count("next: mergekit-tokenadapt-eval check") == 1
    assert str(tmp_path / "out") in caplog.text


def test_a_digit_scheme_that_changes_is_a_warning_in_stock_commands(tmp_path, base, byte_level_folder, caplog):
    target = shutil.copytree(byte_level_folder, tmp_path / "digits")
    definition = json.loads((target / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, definition["pre_tokenizer"]]}
    (target / "tokenizer.json").write_text(json.dumps(definition))
    with caplog.at_level(logging.WARNING):
        stock(tmp_path, recipe_of(base, target))
    assert "numbers were segmented as learned and are now segmented one by one" in caplog.text
    assert "Tokens per byte" not in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "out")
    stock(tmp_path, recipe_of(base, target), "--quiet")
    assert "numbers were segmented" not in caplog.text


def test_every_input_model_is_counted(tmp_path, base, gemma_style_folder, tiny_model_folder, caplog):
    other = tiny_model_folder(gemma_style_folder, tmp_path / "other", seed=1)
    recipe = recipe_of(base, "base") | {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (base, other)],
    }
    with caplog.at_level(logging.INFO):
        stock(tmp_path, recipe, "-v")
    num_tokens = len(load_tokenizer(str(base)).vocabulary)
    copied = [int(n.replace(",", "")) for n in re.findall(r"^copied +([\d,]+)", caplog.text, re.MULTILINE)]
    assert len(copied) == 2
    assert num_tokens > copied[0] > copied[1] > 0


def test_a_tokenizer_that_loses_text_is_not_called_shorter(zoo):
    report = {name: zoo[name] for name in ("byte-level", "wordpiece")}
    texts = reports._texts(report["byte-level"], report["wordpiece"])
    assert set(texts) >= {"prose", "code", *LANGUAGES}
    assert all(text["before"]["is_exact"] for text in texts.values())
    assert not texts["ja"]["after"]["is_exact"]
    from mergekit_tokenadapt.output.change_report_text import _change, _row

    assert _change(texts["ja"]) is None
    assert _row("x", texts["ja"])[2].endswith("(loses text)")


def test_a_report_that_fails_does_not_cost_the_model(tmp_path, base, gemma_style_folder, monkeypatch, caplog):
    def fail(*_args):
        raise ValueError("strange tokenizer")

    monkeypatch.setattr(reporting, "change_report", fail)
    transplant(base, gemma_style_folder, tmp_path / "out")
    assert (tmp_path / "out" / "tokenadapt.json").is_file()
    assert "no report on out: strange tokenizer" in caplog.text
