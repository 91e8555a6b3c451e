"""`mergekit-tokenadapt recipes`, in a checkout and from a built wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli import recipe_files
from mergekit_tokenadapt.cli.main import main

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "yaml_recipes"


def run(*args):
    return CliRunner().invoke(main, ["recipes", *map(str, args)], catch_exceptions=False)


def test_every_recipe_is_listed_with_a_sentence():
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(file.stem for file in RECIPES.glob("*.yml"))
    for line in lines:
        _, summary = line.split(maxsplit=1)
        assert 20 < len(summary) < 160, line
        assert "mergekit-yaml" not in summary


@pytest.mark.parametrize("name", ["tokenizer_swap", "two_steps.yml"])
def test_a_recipe_is_printed_as_it_is(name):
    assert run(name).stdout == (RECIPES / f"{name.removesuffix('.yml')}.yml").read_text()


def test_a_recipe_is_written_and_nothing_is_overwritten(tmp_path):
    file = tmp_path / "mine.yml"
    assert run("tokenizer_swap", "-o", file).exit_code == 0
    assert file.read_bytes() == (RECIPES / "tokenizer_swap.yml").read_bytes()
    file.write_text("my own")
    refused = run("tokenizer_swap", "-o", file)
    assert (refused.exit_code, file.read_text()) == (2, "my own")
    assert "exists already" in refused.output
    assert run("tokenizer_swap", "-o", file, "--force").exit_code == 0
    assert file.read_bytes() == (RECIPES / "tokenizer_swap.yml").read_bytes()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tokeniser_swap"], "did you mean 'tokenizer_swap'?"),
        (["../pyproject"], "there is no recipe"),
        (["-o", "x.yml"], "give its NAME"),
        (["tokenizer_swap", "-o", "missing/x.yml"], "missing"),
    ],
)
def test_what_cannot_be_is_one_line(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_installation_without_recipes_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(recipe_files, "PLACES", (tmp_path / "nowhere",))
    result = run()
    assert result.exit_code == 2
    assert "has no recipes" in result.output


def test_a_wheel_holds_them(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "site")
    names = {file.name for file in (tmp_path / "site" / "mergekit_tokenadapt" / "yaml_recipes").iterdir()}
    assert names == {file.name for file in RECIPES.iterdir()}
    code = (
        "from mergekit_tokenadapt.cli.recipe_files import __file__, recipe_text; "
        "print(__file__); print(recipe_text('tokenizer_swap'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    place, text = done.stdout.split("\n", 1)
    assert place.startswith(str(tmp_path / "site"))
    assert text.strip() == (RECIPES / "tokenizer_swap.yml").read_text().strip()
