"""The command `tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from click.testing import Result
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.scripts import make_up


def test_every_token_has_one_kind(out: Path) -> None:
    vocabulary = load_tokenizer(str(out)).vocabulary
    report = make_up(vocabulary)
    assert sum(report["kinds"].values()) == len(vocabulary)
    assert report["kinds"]["special"] == 4


Run = Callable[..., Result]


def test_tokenizer_command_json(run: Run, base: Path, out: Path) -> None:
    result = run("tokenizer", base, out, "--builtin", "prose", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    first = report["tokenizers"][0]
    assert first["parity"]["en"] == 1
    assert len(first["parity"]) == 14
    assert first["parity"]["th"] > 3  # bytes of three-byte characters, against English words
    assert 0 < first["vocabulary_use"] <= 1
    assert report["texts"][0]["bytes"] == first["texts"]["prose"]["bytes"]


def test_tokenizer_command_prints_tables(run: Run, base: Path, tmp_path: Path) -> None:
    units = tmp_path / "units.txt"
    units.write_text("the\nright\n")
    result = run("tokenizer", base, "--builtin", "en", "--builtin", "zh", "--morphemes", f"en={units}")
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    for heading in ("Fertility", "Renyi efficiency", "Parity", "Vocabulary by kind", "digits", "%Pure"):
        assert heading in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference", "xx"], "there is no parallel text in 'xx'"),
        (["--builtin", "nothing"], "there is no built-in text 'nothing'"),
        (["--morphemes", "en=/nowhere"], "the word list '/nowhere' cannot be read"),
        (["--mixture", "en"], "--mixture takes NAME=PATH"),
        (["--mixture", "a={file}"], "a mixture has two or more categories"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, base: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "a.txt").write_text("the river")
    result = run("tokenizer", base, *[a.format(file=tmp_path / "a.txt") for a in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_tokenizer_that_is_not_there(run: Run) -> None:
    result = run("tokenizer", "/nowhere/at/all")
    assert result.exit_code == 2
    assert "no tokenizer found" in result.output


def test_a_word_level_tokenizer_works_too(run: Run, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "right": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    folder = tiny_models.write_tokenizer(tokenizer, tmp_path / "words", bos_token=None, eos_token=None)
    result = run("tokenizer", folder, "--builtin", "en", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tokenizers"][0]["texts"]["en"]["exact_round_trips"] == 0
