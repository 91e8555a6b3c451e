"""Recipes that mergekit would run without their ``adapt`` block, and what is wrong in one: an error in a line."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mergekit.config import MergeConfiguration
from mergekit.moe.config import MoEMergeConfig
from mergekit.scripts import merge_raw_pytorch, run_yaml

from mergekit_tokenadapt import activate
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.misplaced import find_blocks

BLOCK = {"method": "mean"}
STOCK = {"merge_method": "passthrough", "models": [{"model": "./m"}]}


@pytest.fixture(autouse=True)
def active():
    activate()


def stock_command(recipe, tmp_path, command=run_yaml.main):
    """`mergekit-yaml`, in this process; its result."""
    file = tmp_path / "recipe.yml"
    file.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False))
    return CliRunner().invoke(command, [str(file), str(tmp_path / "out")])


def assert_one_line(result, *parts):
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.output.splitlines() if not line.startswith("Warning")]
    assert lines[-1].startswith("Error: ")
    for part in parts:
        assert part in lines[-1]
    assert len(lines) == 1


@pytest.mark.parametrize(
    "key",
    ["adpt", "adapter", "Adapt", "adopt", "addapt", "adatp", "adapted", "tokenadapt", "adapt_config", "adaptation"],
)
def test_a_misspelt_key_is_not_ignored(key, tmp_path):
    result = stock_command({**STOCK, "tokenizer": {"source": "./t", key: BLOCK}}, tmp_path)
    assert_one_line(result, f"tokenizer.{key}", "did you mean adapt?")


def test_a_block_under_any_name_is_known_by_its_keys(tmp_path):
    recipe = {**STOCK, "tokenizer": {"source": "./t", "transplant": {"auxiliary": "ngram"}}}
    assert_one_line(stock_command(recipe, tmp_path), "tokenizer.transplant", "did you mean adapt?")


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"adapt": BLOCK}, "adapt"),
        ({"adapt": "mean"}, "adapt"),
        ({"adpt": BLOCK}, "adpt"),
        ({"tokenizer_adapt": BLOCK}, "tokenizer_adapt"),
        ({"tokenizer.adapt": BLOCK}, "tokenizer.adapt"),
        ({"tokeniser": {"source": "./t", "adapt": BLOCK}}, "tokeniser.adapt"),
        ({"tokeniser": {"source": "./t", "adpt": BLOCK}}, "tokeniser.adpt"),
        ({"tokenizers": [{"source": "./t", "adapt": None}]}, "tokenizers.0.adapt"),
        ({"tokenizer_source": {"source": "./t", "adapt": BLOCK}}, "tokenizer_source.adapt"),
        ({"models": [{"model": "./m", "tokenizer": {"source": "./t", "adapt": BLOCK}}]}, "models.0.tokenizer.adapt"),
        ({"models": [{"model": "./m", "adapt": BLOCK}]}, "models.0.adapt"),
        (
            {"models": None, "modules": {"adapter": {"models": [{"model": "./m"}], "adapt": BLOCK}}},
            "modules.adapter.adapt",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_block_in_another_place_is_not_ignored(more, where, tmp_path):
    assert_one_line(stock_command({**STOCK, **more}, tmp_path), where, "did you mean tokenizer.adapt?")


def test_a_block_without_its_own_level(tmp_path):
    result = stock_command({**STOCK, "tokenizer": {"source": "./t", "method": "hybrid"}}, tmp_path)
    assert_one_line(result, "tokenizer.method", "a key of tokenizer.adapt")


def test_an_empty_block_is_not_ignored(tmp_path):
    result = stock_command({**STOCK, "tokenizer": {"source": "./t", "adapt": None}}, tmp_path)
    assert_one_line(result, "tokenizer.adapt is empty")


@pytest.mark.parametrize(("key", "near"), [("sorce", "source"), ("pad_to_multiple", "pad_to_multiple_of")])
def test_an_unknown_key_beside_the_block_is_an_error(key, near, tmp_path):
    recipe = {**STOCK, "tokenizer": {"source": "./t", "adapt": BLOCK, key: 64}}
    assert_one_line(stock_command(recipe, tmp_path), f"tokenizer.{key}", f"did you mean '{near}'?")


@given(st.sampled_from("adapt"), st.integers(0, 4), st.sampled_from(["drop", "double", "swap", "capital"]))
def test_one_slip_in_the_key_is_always_seen(letter, place, slip):
    key = "adapt"
    if slip == "drop":
        key = key[:place] + key[place + 1 :]
    elif slip == "double":
        key = key[:place] + letter + key[place:]
    elif slip == "swap":
        key = key[: place - 1] + key[place : place + 1] + key[place - 1 : place] + key[place + 1 :] if place else key
    else:
        key = key.capitalize()
    found = list(find_blocks({"tokenizer": {"source": "base", key: {}}}))
    assert found == [("tokenizer", key)]


STOCK_RECIPES = [
    {"tokenizer": {"source": "base", "tokens": {"<adapt>": {"source": "./m"}, "adapt": {"source": "./m"}}}},
    {"tokenizer": {"source": "base", "note": "ours", "tokens": None, "pad_to_multiple_of": 8}},
    {"parameters": {"adapt": 0.5, "adaptive": {"value": 1.0}}},
    {"models": [{"model": "./m", "parameters": {"adapt": [0.1, 0.2]}}]},
    {"comment": {"author": "x", "dates": [1, 2]}, "adapter": "./lora", "data": {}, "tokeniser": {"source": "base"}},
    {"models": None, "modules": {"adapter": {"models": [{"model": "./m"}]}}},
    {"chat_template": "auto", "tokenizer_source": "base"},
]


def test_stock_recipes_mean_what_they_did(without_plugin, tmp_path):
    recipes = [{**STOCK, **stock} for stock in STOCK_RECIPES]
    code = (
        "from mergekit.config import MergeConfiguration\n"
        f"for recipe in {recipes!r}: print(MergeConfiguration.model_validate(recipe).model_dump_json())"
    )
    without = without_plugin.python(tmp_path, code)
    configurations = [MergeConfiguration.model_validate(recipe) for recipe in recipes]
    assert [c.model_dump_json() for c in configurations] == without.splitlines()
    # mergekit-multi writes and reads them again.
    assert [MergeConfiguration.model_validate(c.model_dump()) for c in configurations] == configurations


def test_an_unknown_key_in_a_stock_tokenizer_block_gets_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        MergeConfiguration.model_validate({**STOCK, "tokenizer": {"source": "base", "pad_to_multiple": 8}})
    assert "tokenizer.pad_to_multiple" in caplog.text
    assert "did you mean 'pad_to_multiple_of'?" in caplog.text


def test_a_recipe_of_endless_aliases_is_read_once():
    doubled: list = []
    for _ in range(60):
        doubled = [doubled, doubled]
    endless: dict = {"a": doubled}
    endless["b"] = [endless]
    assert list(find_blocks(endless)) == []


# --- commands that cannot adapt


def moe(tmp_path):
    return {
        "base_model": "./a",
        "experts": [{"source_model": "./a", "positive_prompts": ["x"]}, {"source_model": "./b"}],
        "tokenizer": {"source": "./t", "adapt": BLOCK},
    }


def test_mixtures_of_experts_refuse_the_block(tmp_path):
    from mergekit.scripts.moe import main

    assert_one_line(stock_command(moe(tmp_path), tmp_path, main), "mergekit-moe", "tokenizer.adapt", "transplant")
    assert not (tmp_path / "out").exists()


def test_without_the_block_they_read_what_they_did(tmp_path):
    recipe = moe(tmp_path)
    del recipe["tokenizer"]["adapt"]
    assert MoEMergeConfig.model_validate(recipe).experts[1].source_model.model.path == "./b"


def test_raw_merges_and_evolution_refuse_the_block(tmp_path):
    from mergekit.evo.config import EvolMergeConfiguration

    recipe = {**STOCK, "tokenizer": {"source": "./t", "adapt": BLOCK}}
    assert_one_line(stock_command(recipe, tmp_path, merge_raw_pytorch.main), "mergekit-pytorch", "tokenizer.adapt")
    genome = {"models": ["./m"], "merge_method": "linear", "tokenizer": {"adapt": BLOCK}}
    with pytest.raises(TokenAdaptError, match=r"mergekit-evolve would ignore genome\.tokenizer\.adapt"):
        EvolMergeConfiguration.model_validate({"genome": genome, "tasks": ["x"]})


# --- wrong keys and values in the block


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"metod": "mean"}, ["'metod'", "did you mean 'method'?", "auxiliary, rows", "top_k, donor"]),
        (
            {"method": "hybrid", "topk": 3},
            ["'topk'", "did you mean 'top_k'?", "temperature, top_k", "calibration_text"],
        ),
        ({"method": "mean", "Rows": 3}, ["'Rows'", "did you mean 'rows'?"]),
        ({"method": "meen"}, ["unknown method 'meen'", "calibrated", "did you mean 'mean'?"]),
        ({"method": "mean", "auxiliary": "ngramm"}, ["unknown auxiliary 'ngramm'", "did you mean 'ngram'?"]),
        ({"auxiliary": "model2vek:some/model"}, ["unknown auxiliary", "did you mean 'model2vec'?"]),
        ({"rows": "many"}, ["rows: takes 'exact' or 'donor' or a whole number, not 'many'"]),
        ({"rows": -1}, ["rows: takes 'exact' or 'donor' or a number greater than 0, not -1"]),
        ({"untie": "perhaps"}, ["untie: takes true or false, not 'perhaps'"]),
        ({"untie": "perhaps", "save_plan": "perhaps"}, ["untie: takes", "save_plan: takes"]),
        ({"token_map": {"<a>": 3}}, ["token_map.<a>: takes text, not 3"]),
        ({"token_map": ["<a>"]}, ["token_map: takes keys with values, not ['<a>']"]),
        ({"missing_rows": "base"}, ["missing_rows: takes 'composed' or 'base_model', not 'base'"]),
        ({"calibration_bytes": -5}, ["calibration_bytes: takes a number greater than or equal to 0, not -5"]),
        ({"method": "hybrid", "temperature": 0}, ["temperature: takes a number greater than"]),
        ("mean", ["tokenizer.adapt takes keys (method, ", "not 'mean'"]),
        (["mean"], ["tokenizer.adapt takes keys (method, ", "not ['mean']"]),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_block_is_one_line(block, says, tmp_path):
    recipe = {**STOCK, "tokenizer": {"source": "./t", "adapt": block}}
    assert_one_line(stock_command(recipe, tmp_path), *says)
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.plugin.transplant import run_recipe

    with pytest.raises(TokenAdaptError) as caught:
        run_recipe(recipe, str(tmp_path / "out"), merge_options(quiet=True))
    assert "\n" not in str(caught.value)
    assert "Input should" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize("pad", [0, -64, "many"])
def test_padding_beside_the_block_is_checked(pad, tmp_path):
    recipe = {**STOCK, "tokenizer": {"source": "./t", "adapt": BLOCK, "pad_to_multiple_of": pad}}
    assert_one_line(stock_command(recipe, tmp_path), "pad_to_multiple_of: takes a")


def test_our_command_says_the_same(tmp_path, byte_level_folder):
    from mergekit_tokenadapt.cli.main import main

    for command in (["transplant", "a", "b", str(tmp_path / "out")], ["explain", "a", "b", "--token", "x"]):
        result = CliRunner().invoke(main, [*command, "--option", "metod=mean"])
        assert_one_line(result, "'metod'", "did you mean 'method'?")


def test_commands_in_the_shell_print_one_line(stock, tmp_path):
    (tmp_path / "recipe.yml").write_text(
        yaml.safe_dump({**STOCK, "tokenizer": {"source": "./t", "adapt": {"metod": 1}}})
    )
    (tmp_path / "moe.yml").write_text(yaml.safe_dump(moe(tmp_path)))
    command = [Path(sys.executable).parent / "mergekit-yaml", "recipe.yml", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    forked = stock.run(tmp_path, "mergekit-moe", "moe.yml", "out", cwd=str(tmp_path))
    assert done.returncode == forked.code == 2
    for said in (done.stderr, forked.said):
        assert len(said.strip().splitlines()) == 1, said
        assert said.startswith("Error: ")
