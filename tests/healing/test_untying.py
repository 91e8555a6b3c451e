"""Commands with `--heal` choose between one matrix and two on held-out text."""

import json

import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli import heal_after
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.healing import untying
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.models.folder import open_model


@pytest.fixture
def short(monkeypatch):
    """Makes `--heal` short."""
    options = {"steps": 1, "looks": 1, "passages_per_step": 1, "passage_bytes": 400, "rank": 4, "probe_bytes": 0}
    monkeypatch.setattr(heal_after, "HealOptions", lambda **given: HealOptions(**options, **given))


@pytest.fixture
def transplant(tied_pair, tmp_path, gemma_style_folder, text_file, short):
    """Runs `transplant --heal` with more flags; gives what it printed, and the folder."""

    def run(name, *flags, base=tied_pair[0]):
        out = tmp_path / name
        command = ("transplant", base, gemma_style_folder, out, "--method", "eeve", "--heal")
        done = CliRunner().invoke(main, [*map(str, command), f"--heal-text=lines={text_file}", *flags])
        assert done.exit_code == 0, done.output
        return done, out

    return run


def before(folder):
    return json.loads((folder / "tokenadapt.json").read_text())["healing"]["held_out"]["before"]["lines"]


def test_the_choice_is_the_one_with_fewer_bits(transplant, monkeypatch):
    monkeypatch.setattr(untying, "LEAST_GAIN", 0.0)
    found = {flag: before(transplant(flag, flag)[1]) for flag in ("--untie", "--no-untie")}
    best = min(found, key=found.get)
    assert abs(found["--untie"] / found["--no-untie"] - 1) > 0.001, "this test needs rows that differ"
    done, out = transplant("chosen")
    assert before(out) == found[best]
    assert open_model(str(out)).checkpoint.tables.is_tied == (best == "--no-untie")
    assert "change the bits per byte of held-out text by" in done.stderr
    assert json.loads((out / "tokenadapt.json").read_text())["adapt"]["untie"] == (best == "--untie")
    assert sorted(p.name for p in out.parent.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(("least", "is_tied"), [(-1.0, False), (1.0, True)])
def test_a_second_matrix_has_to_save_bits(transplant, monkeypatch, least, is_tied):
    monkeypatch.setattr(untying, "LEAST_GAIN", least)
    done, out = transplant("out")
    assert open_model(str(out)).checkpoint.tables.is_tied == is_tied
    assert ("--untie makes two" if is_tied else "`restore` cannot undo the swap; --no-untie keeps one") in done.stderr


@pytest.mark.parametrize("command", ["draft", "distill-prep", "supertokens extend"])
def test_every_command_that_heals_chooses(tied_pair, tmp_path, other_model, text_file, short, monkeypatch, command):
    monkeypatch.setattr(untying, "LEAST_GAIN", -1.0)
    small, out = tied_pair[0], tmp_path / "out"
    if command == "supertokens extend":
        given = ("supertokens", "extend", small, tmp_path / "tokenizer", "--add", "12", "--text", text_file)
        given, files = (*given, "--onto", small, out), set()
    else:
        given, files = (command, other_model, small, out), {"draft": {"draft.json"}}.get(command, {"distillation.json"})
    given = (*map(str, given), "--heal", f"--heal-text=lines={text_file}")
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert "--no-untie keeps one" in done.stderr
    assert not open_model(str(out)).checkpoint.tables.is_tied
    assert files <= {path.name for path in out.iterdir()}
    settled = CliRunner().invoke(main, [*given, "--force", "--no-untie"])
    assert settled.exit_code == 0, settled.output
    assert "untie: " not in settled.stderr
    assert open_model(str(out)).checkpoint.tables.is_tied


def test_nothing_is_chosen_for_an_untied_model_or_where_the_user_has_chosen(transplant, untied_pair):
    for name, flags, base in (("a", ["--no-untie"], None), ("b", [], untied_pair[0])):
        done, _ = transplant(name, *flags, **({} if base is None else {"base": base}))
        assert "untie: " not in done.stderr


def test_one_matrix_is_kept_where_two_cannot_be_made(tied_pair, text_file, monkeypatch):
    from mergekit_tokenadapt.errors import TokenAdaptError
    from mergekit_tokenadapt.texts import read_text

    def refuse(_folder):
        raise TokenAdaptError("this architecture has one matrix")

    said = []
    files = {p.name: p.read_bytes() for p in tied_pair[1].iterdir() if p.is_file()}
    untying.choose_matrices(
        tied_pair[1],
        refuse,
        [read_text(f"lines={text_file}")],
        HealOptions(),
        base=str(tied_pair[0]),
        trust_remote_code=False,
        say=said.append,
    )
    assert said == [
        "untie: input and output keep one matrix, because two cannot be made: this architecture has one matrix"
    ]
    assert {p.name: p.read_bytes() for p in tied_pair[1].iterdir() if p.is_file()} == files
