"""Another package adds a method and an auxiliary space, by declaring entry points only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.methods import Method

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package installed, to be put on the path."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(PACKAGE)], check=True)
    return site


@pytest.fixture
def run(stock, installed, tmp_path):
    """``run("mergekit-yaml", recipe, "out")`` where the package is installed: what it says."""

    def run_command(program, *arguments):
        ended = stock.run(tmp_path, program, *arguments, cwd=str(tmp_path), path=[str(installed)])
        assert ended.code == 0, ended.said
        return ended.said

    return run_command


def test_it_is_used_from_a_recipe(run, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    tiny_model_folder(byte_level_folder, tmp_path / "base")
    (tmp_path / "recipe.yml").write_text(
        "merge_method: passthrough\n"
        "models: [{model: ./base}]\n"
        f"tokenizer: {{source: {gemma_style_folder}, adapt: {{method: last-piece, auxiliary: byte-counts, share: 0}}}}"
    )
    run("mergekit-yaml", "recipe.yml", "out")
    manifest = json.loads((tmp_path / "out/tokenadapt.json").read_text())
    assert manifest["inputs"][0]["method"] == "last-piece"
    assert manifest["inputs"][0]["options"] == {"share": 0.0}


def test_it_is_listed(run):
    listed = json.loads(run("mergekit-tokenadapt", "methods", "--json"))
    assert "last-piece" in {method["name"] for method in listed["methods"]}
    assert "byte-counts" in {space["name"] for space in listed["auxiliary"]}


class _Entry:
    def __init__(self, name, value, loads=None):
        self.name, self.value, self._loads = name, value, loads

    def load(self):
        if self._loads is None:
            raise ImportError("no module named nothing")
        return self._loads


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([_Entry("m", "a:A"), _Entry("m", "b:B")], "two packages register 'm'"),
        ([_Entry("m", "a:A")], "cannot be imported: no module named nothing"),
        ([_Entry("m", "a:A", dict)], "is not a subclass of Method"),
        ([_Entry("n", "a:A", dict)], "unknown method 'm'; installed: n"),
    ],
)
def test_broken_packages_are_named(monkeypatch, entries, says):
    monkeypatch.setattr(entry_points, "entry_points", lambda group: entries)
    entry_points._entries.cache_clear()
    try:
        with pytest.raises(TokenAdaptError, match=says):
            entry_points.load(entry_points.METHODS, "m", Method)
    finally:
        entry_points._entries.cache_clear()
