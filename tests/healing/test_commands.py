"""The commands that heal: `heal` and `transplant --heal`."""

import json

from click.testing import CliRunner

from mergekit_tokenadapt.cli import heal_after
from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.healing.options import HealOptions

FLAGS = (
    "--steps=6", "--looks=2", "--passages-per-step=2", "--passage-bytes=400", "--rank=4", "--rate=3e-3",
    "--row-rate=3e-3", "--probe-bytes=40",
)  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_heal(tied_pair, tmp_path, text_file):
    out = tmp_path / "out"
    result = run("heal", tied_pair[1], out, "--text", f"lines={text_file}", *FLAGS)
    assert result.exit_code == 0, result.output
    assert "lines (held out)" in result.stdout
    assert "6 steps on 12 passages" in result.stdout
    assert "step 3 of 6: lines" in result.stderr
    assert "seconds for 1,000 tokens" in result.stderr
    assert f"Wrote {out}" in result.stderr
    options = json.loads((out / "tokenadapt.json").read_text())["healing"]["options"]
    assert (options["steps"], options["rank"], options["seed"]) == (6, 4, 0)
    again = run("heal", tied_pair[1], tmp_path / "again", "--text", f"lines={text_file}", *FLAGS, "--quiet")
    assert (again.exit_code, again.output) == (0, "")
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    checked = CliRunner().invoke(evaluate, ["check", str(out), "--base", str(tied_pair[0])])
    assert "healed in 6 steps" in " ".join(checked.stdout.split())
    assert checked.exit_code == 0, checked.output
    twice = run("heal", out, tmp_path / "twice", "--text", f"lines={text_file}", *FLAGS, "--quiet")
    assert twice.exit_code == 0, twice.output  # what was healed can be healed on: the manifest still names the base


def test_transplant_and_heal(tied_pair, tmp_path, gemma_style_folder, text_file, monkeypatch):
    short = {"steps": 4, "looks": 1, "passages_per_step": 2, "passage_bytes": 400, "rank": 4, "probe_bytes": 0}
    monkeypatch.setattr(heal_after, "HealOptions", lambda **given: HealOptions(**short, **given))
    out = tmp_path / "out"
    flags = ("--method", "mean", "--heal", "--heal-minutes", "5", "--heal-text", f"lines={text_file}")
    result = run("transplant", tied_pair[0], gemma_style_folder, out, *flags)
    assert result.exit_code == 0, result.output
    assert "lines (held out)" in result.stdout
    manifest = json.loads((out / "tokenadapt.json").read_text())
    assert manifest["healing"]["steps"] == 4
    assert manifest["healing"]["options"]["minutes"] == 5
    assert manifest["inputs"][0]["name"] == str(tied_pair[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out"]


def test_what_would_be_refused_later_is_refused_before_the_swap(tied_pair, tmp_path, gemma_style_folder):
    (tmp_path / "short.txt").write_text("one line")
    given = ("transplant", tied_pair[0], gemma_style_folder, tmp_path / "out")
    result = run(*given, "--heal", "--heal-text", tmp_path / "short.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "too short to learn from" in result.stderr
    result = run(*given, "--heal-minutes", "3")
    assert "--heal-minutes and --heal-text go with --heal" in result.stderr
