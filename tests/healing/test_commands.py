"""The commands that heal: `heal`, and those with `--heal`."""

import json

import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli import heal_after
from mergekit_tokenadapt.cli import transplant as transplant_module
from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing import run as run_module
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.trainer import HealingTrainer

FLAGS = (
    "--steps=6", "--looks=2", "--passages-per-step=2", "--passage-bytes=400", "--rank=4", "--rate=0.05",
    "--row-rate=0.05", "--probe-bytes=40",
)  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_heal(tied_pair, tmp_path, text_file):
    out = tmp_path / "out"
    result = run("heal", tied_pair[1], out, "--text", f"lines={text_file}", *FLAGS)
    assert result.exit_code == 0, result.output
    assert "lines (held out)" in result.stdout
    assert "6 steps of 2 passages each, from 12 passages" in result.stdout
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


@pytest.fixture
def short(monkeypatch):
    """Makes `--heal` short."""
    options = {"steps": 4, "looks": 2, "passages_per_step": 2, "passage_bytes": 400, "rank": 4, "probe_bytes": 0}
    monkeypatch.setattr(heal_after, "HealOptions", lambda **given: HealOptions(**options, **given))


def test_the_text_to_heal_on_is_never_deleted(tied_pair, tmp_path, gemma_style_folder, text_file, short):
    out = tmp_path / "out"
    swap = ("transplant", tied_pair[0], gemma_style_folder, out, "--method", "mean")
    assert run(*swap).exit_code == 0
    notes = out / "notes.txt"
    notes.write_text(text_file.read_text())
    result = run(*swap, "--force", "--heal", "--heal-text", notes)
    assert result.exit_code == 2
    assert "notes.txt, which is read" in result.stderr
    assert notes.is_file()
    inside = run(*swap[:3], tmp_path / "texts" / "out", "--heal", "--heal-text", tmp_path)
    assert inside.exit_code == 2
    assert "would be read as text" in inside.stderr


@pytest.mark.parametrize(
    ("flags", "device"),
    [((), None), (("--device", "cpu"), "cpu"), (("--cuda",), "cuda"), (("--device", "cuda:1"), "cuda:1")],
)
def test_the_device_that_the_user_names_is_healed_on(flags, device, monkeypatch, tmp_path):
    """mergekit's default is the CPU, and healing's the best there is."""

    def stop(*_arguments, **settings):
        raise TokenAdaptError(f"device {settings['device']}")

    monkeypatch.setattr(transplant_module, "healing_stage", stop)
    result = run("transplant", "model", "tokenizer", tmp_path / "out", "--heal", *flags)
    assert f"device {device}" in result.stderr


def test_transplant_and_heal(tied_pair, tmp_path, gemma_style_folder, text_file, short):
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


def test_a_line_about_the_model_does_not_name_the_folder_in_which_it_is_made(
    tied_pair, tmp_path, gemma_style_folder, text_file, short
):
    flags = ("--method", "mean", "--chat-template", "base", "--no-untie", "--heal", "--heal-text", f"lines={text_file}")
    result = run("transplant", tied_pair[0], gemma_style_folder, tmp_path / "out", *flags)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "tokens of roles are not trained" in line]
    assert line.startswith("the model has a chat template")


def test_a_transplant_that_is_killed_while_it_heals_goes_on(
    tied_pair, tmp_path, gemma_style_folder, text_file, short, own_cache, monkeypatch
):
    given = ("--quiet", "--heal", "--heal-text", f"lines={text_file}")
    undisturbed = run("transplant", tied_pair[0], gemma_style_folder, tmp_path / "undisturbed" / "out", *given)
    assert undisturbed.exit_code == 0, undisturbed.output
    original, seen = HealingTrainer.training_step, []

    def dying_once(trainer, *args, **options):
        seen.append(trainer.state.global_step)
        if seen == [0, 0, 1, 1, 2, 2, 3]:  # two passages a step
            raise KeyboardInterrupt
        return original(trainer, *args, **options)

    monkeypatch.setattr(HealingTrainer, "training_step", dying_once)
    out = tmp_path / "disturbed" / "out"
    assert run("transplant", tied_pair[0], gemma_style_folder, out, *given).exit_code == 130
    assert list(out.parent.iterdir()) == []
    again = run("transplant", tied_pair[0], gemma_style_folder, out, *given)
    assert again.exit_code == 0, again.output
    assert seen[7:] == [2, 2, 3, 3]
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "undisturbed" / "out").iterdir())
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / "out" / name).read_bytes(), name
    assert not list(own_cache.glob("heal-*/*"))


def test_what_would_be_refused_later_is_refused_before_the_swap(tied_pair, tmp_path, gemma_style_folder):
    (tmp_path / "short.txt").write_text("one line")
    given = ("transplant", tied_pair[0], gemma_style_folder, tmp_path / "out")
    result = run(*given, "--heal", "--heal-text", tmp_path / "short.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "too short to learn from" in result.stderr
    result = run(*given, "--heal", "--heal-text", tmp_path / "none.txt")
    assert "--heal-text takes NAME=PATH or PATH, and there is no file or folder" in result.stderr
    result = run(*given, "--heal-minutes", "3")
    assert "--heal-minutes and --heal-text do nothing without --heal" in result.stderr


def test_a_draft_is_healed_on_what_the_target_writes(tied_pair, tmp_path, other_model, text_file, short, own_cache):
    out = tmp_path / "out"
    result = run("draft", other_model, tied_pair[0], out, "--heal", "--heal-text", f"lines={text_file}")
    assert result.exit_code == 0, result.output
    assert "lines (held out)" in result.stdout
    healing = json.loads((out / "tokenadapt.json").read_text())["healing"]
    assert healing["steps"] == 4
    assert [text["source"] for text in healing["texts"]] == [f"written by {other_model}, prompts from {text_file}"]
    assert healing["texts"][0]["documents"] > 20
    assert json.loads((out / "draft.json").read_text())["accepted_by"]["transformers"] == "yes"
    assert not list(own_cache.glob("*-*/*"))


def test_a_student_is_healed(tied_pair, tmp_path, other_model, text_file, short):
    out = tmp_path / "out"
    result = run("distill-prep", other_model, tied_pair[0], out, "--heal", "--heal-text", f"lines={text_file}")
    assert result.exit_code == 0, result.output
    assert json.loads((out / "tokenadapt.json").read_text())["healing"]["texts"][0]["name"] == "lines"
    assert {"distillation.json", "token_map.safetensors"} <= {path.name for path in out.iterdir()}


def test_a_model_with_added_tokens_is_healed(tied_pair, tmp_path, text_file, short):
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    given = ("--heal", "--heal-text", f"lines={text_file}")
    command = ("supertokens", "extend", tied_pair[0], tokenizer, "--text", text_file, "--add", "12")
    result = run(*command, *given)
    assert (result.exit_code, tokenizer.exists()) == (2, False)
    assert "--heal goes with --onto" in result.stderr
    result = run(*command, "--onto", tied_pair[0], out, *given)
    assert result.exit_code == 0, result.output
    healed = json.loads((out / "tokenadapt.json").read_text())["healing"]
    assert (healed["steps"], healed["texts"][0]["name"]) == (4, "lines")


def test_a_model_with_added_tokens_is_healed_on_the_text_that_they_were_learned_from(
    tied_pair, tmp_path, text_file, short
):
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    command = ("supertokens", "extend", tied_pair[0], tokenizer, "--text", text_file, "--add", "12")
    result = run(*command, "--onto", tied_pair[0], out, "--heal")
    assert result.exit_code == 0, result.output
    (text,) = json.loads((out / "tokenadapt.json").read_text())["healing"]["texts"]
    assert (text["name"], text["source"]) == ("text", str(text_file))
    assert text["bytes"] == text_file.stat().st_size


def test_a_draft_whose_healing_fails_is_not_there(tied_pair, tmp_path, other_model, text_file, short, monkeypatch):
    def full(*_arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_module, "write_healed", full)
    result = run("draft", other_model, tied_pair[0], tmp_path / "out", "--heal", "--heal-text", text_file)
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)


def test_a_text_without_enough_prompts(tied_pair, tmp_path, other_model):
    (tmp_path / "short.txt").write_text("the river is deep and the miller counts\n" * 60)
    result = run("draft", other_model, tied_pair[0], tmp_path / "out", "--heal", "--heal-text", tmp_path / "short.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs 10 prompts of 16 tokens" in result.stderr
