"""The commands that print: plan, explain, methods, and transplant --print-recipe."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import click
import pytest
import yaml
from click.testing import CliRunner
from transplanting import edit_json

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("cli") / "base")


def run(*args):
    result = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def every_command(group, path=()):
    """Every command below a group, with the words that call it; groups themselves included."""
    yield path, group
    if isinstance(group, click.Group):
        for name in group.list_commands(click.Context(group)):
            yield from every_command(group.get_command(click.Context(group), name), (*path, name))


COMMANDS = [(tool, *found) for tool in (main, evaluate) for found in every_command(tool)]
IDS = [" ".join((tool.callback.__module__.rpartition(".")[2], *path)) for tool, path, _ in COMMANDS]


@pytest.mark.parametrize(("tool", "path", "command"), COMMANDS, ids=IDS)
def test_every_group_and_command_has_help(tool, path, command):
    for option in ("--help", "-h"):
        result = CliRunner().invoke(tool, [*path, option], catch_exceptions=False)
        assert result.exit_code == 0
        assert "Usage:" in result.stdout
    assert path == () or command.name == path[-1]
    if any(isinstance(parameter, click.Argument) for parameter in command.params):
        assert "Examples:" in result.stdout


@pytest.mark.parametrize(
    ("tool", "path", "group"),
    [c for c in COMMANDS if isinstance(c[2], click.Group)],
    ids=[i for i, c in zip(IDS, COMMANDS, strict=True) if isinstance(c[2], click.Group)],
)
def test_a_bare_group_lists_its_commands_by_their_own_summaries(tool, path, group):
    bare = CliRunner().invoke(tool, list(path), catch_exceptions=False)
    asked = CliRunner().invoke(tool, [*path, "--help"], catch_exceptions=False)
    assert bare.exit_code in (0, 2)  # click 8.2 takes a command for granted
    assert bare.output == asked.output
    listed = " ".join(asked.stdout.partition("Commands:")[2].split())
    context = click.Context(group)
    commands = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    summaries = [(name, command.get_short_help_str(limit=1000).rstrip(".")) for name, command in commands]
    assert listed == " ".join(f"{name} {summary}" for name, summary in summaries)
    assert all(command.get_short_help_str() for _, command in commands)


@pytest.mark.parametrize(("tool", "path", "command"), COMMANDS, ids=IDS)
def test_every_option_says_what_it_does_and_its_default(tool, path, command):
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_eager:
            assert (option.help or "").partition("[default")[0].strip(), option.opts
            has_default = option.show_default or "[default: " in option.help
            assert has_default or option.required or option.multiple, option.opts


def examples_of(tool, name):
    """Commands of one tool among the examples of every help."""
    for _, _, command in COMMANDS:
        text = f"{command.help}\n{command.epilog}".replace("\\\n", " ")
        for line in text.splitlines():
            if line.strip().startswith(f"{name} "):
                yield tool, shlex.split(line)[1:]


@pytest.mark.parametrize(
    ("tool", "words"),
    [*examples_of(main, "mergekit-tokenadapt"), *examples_of(evaluate, "mergekit-tokenadapt-eval")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_example_is_understood(tool, words):
    """Its command and options exist, and take what it gives them; nothing is run."""
    command, context = tool, click.Context(tool)
    while isinstance(command, click.Group):
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
        context = click.Context(command, parent=context)
    command.make_context(command.name, list(words))


def test_plan_counts_every_row(base, gemma_style_folder, tmp_path):
    report = json.loads(run("plan", base, gemma_style_folder, "--json"))
    vocabulary = load_tokenizer(str(gemma_style_folder)).vocabulary
    assert sum(report["rows_by_reason"].values()) == report["target_rows"] == vocabulary.num_ids
    assert report["vocabulary_parameters_after"] == 32 * vocabulary.num_ids  # tied: one matrix
    silent = shutil.copytree(base, tmp_path / "silent")
    edit_json(silent / "config.json", tie_word_embeddings=None)  # Llama's default is two matrices
    untold = json.loads(run("plan", silent, gemma_style_folder, "--json"))
    assert untold["vocabulary_parameters_after"] == 2 * 32 * vocabulary.num_ids
    text = run("plan", base, gemma_style_folder)
    assert f"{report['rows_by_reason']['new']:,}" in text
    assert "pieces per new token" in text


def test_plan_tells_the_byte_twins_that_a_transplant_makes_mean_rows(base, gemma_style_folder, tmp_path):
    run("transplant", base, gemma_style_folder, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "tokenadapt.json").read_text())["inputs"][0]["rows_by_reason"]["unreachable"]
    assert json.loads(run("plan", base, gemma_style_folder, "--json"))["byte_twins_as_mean"] == made > 0
    assert f"{made:,} (they become the mean row)" in run("plan", base, gemma_style_folder)
    assert "byte twins" not in run("plan", base, gemma_style_folder, "--method", "mean")


def test_plan_needs_no_weights(base, gemma_style_folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    assert run("plan", tmp_path, gemma_style_folder, "--json") == run("plan", base, gemma_style_folder, "--json")


@pytest.mark.parametrize("method", ["mean", "local", "global", "hybrid"])
def test_explain_shows_the_weights_of_a_row(base, gemma_style_folder, method):
    from mergekit_tokenadapt.cli.base_model import make_transfer

    full = make_transfer(str(base), str(gemma_style_folder), {"method": method, "auxiliary": "ngram"}, quiet=True)
    plan = full.make_plan()
    row = int(plan.composed_ids[len(plan.composed_ids) // 2])
    token = full.target.vocabulary.by_id[row]
    shown = json.loads(
        run("explain", base, gemma_style_folder, "--token", token.text, "--method", method, "--json", "--quiet")
    )
    assert shown[0]["id"] == row
    assert shown[0]["reason"] == "new"
    found = {part["id"]: part["weight"] for part in shown[0]["made_of"]}
    assert found == pytest.approx(dict(plan.explain(row)), abs=1e-5)
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_explain_copied_special_and_unknown_tokens(base, gemma_style_folder):
    text = run("explain", base, gemma_style_folder, "--token", "a", "--token", "<eos>", "--quiet")
    assert '"a"' in text
    assert ": copied" in text
    assert "1.0000" in text
    result = CliRunner().invoke(main, ["explain", str(base), str(gemma_style_folder), "--token", "no such token"])
    assert result.exit_code == 2
    assert "'no such token' is not one token of" in result.output


def test_methods_lists_methods_spaces_and_options():
    listed = json.loads(run("methods", "--json"))
    methods = {m["name"]: m for m in listed["methods"]}
    assert {"mean", "local", "global", "hybrid"} <= methods.keys()
    assert {o["name"]: o["default"] for o in methods["hybrid"]["options"]} == {
        "temperature": 0.3,
        "top_k": 3,
        "global_weight": 0.3,
        "threshold": 0.0,
    }
    assert {"ngram", "sentence-transformers", "transformer", "model2vec"} <= {s["name"] for s in listed["auxiliary"]}
    assert "2505.09738" in run("methods")


def test_print_recipe_is_the_recipe_that_would_run(base, gemma_style_folder, tmp_path):
    printed = run(
        "transplant", base, gemma_style_folder, tmp_path / "out", "--print-recipe", "--method", "global",
        "-O", "top_k=5", "--rows", "donor", "--token-map", "<a>=<b>", "--dtype", "bfloat16",
    )  # fmt: skip
    recipe = yaml.safe_load(printed)
    assert recipe["dtype"] == "bfloat16"
    assert recipe["tokenizer"]["adapt"] == {
        "method": "global", "auxiliary": "ngram", "rows": "donor", "token_map": {"<a>": "<b>"}, "top_k": 5,
    }  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_transplant_from_flags_is_the_recipe(base, gemma_style_folder, tmp_path):
    run(
        "transplant", base, gemma_style_folder, tmp_path / "out", "--method", "mean", "--quiet", "--no-write-model-card"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenadapt.json", "tokenadapt.plan",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_our_commands_write_smaller_shards_than_mergekit():
    """A shard is held in memory until it is full."""
    from mergekit.options import MergeOptions

    from mergekit_tokenadapt.cli.transplant import transplant_command
    from mergekit_tokenadapt.plugin.merge_options import merge_options

    option = next(p for p in transplant_command.params if p.name == "out_shard_size")
    assert option.default == merge_options(quiet=True).out_shard_size < MergeOptions().out_shard_size
    assert merge_options(out_shard_size=5).out_shard_size == 5
    assert "[default: 1B]" in CliRunner().invoke(main, ["transplant", "--help"]).output


def test_a_closed_pipe_ends_a_command_without_a_word():
    """As `mergekit-tokenadapt recipes | head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mergekit_tokenadapt.cli.main", "recipes"]
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"")
