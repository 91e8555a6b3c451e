"""`tokenizer`: every measure on a case worked by hand."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
from click.testing import Result
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.tokenizer_quality.words import read_units, share_in, words_of
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.habits import digit_grouping, habits
from mergekit_tokenadapt.tokenizer.scripts import KINDS, kind_of, make_up, script_of
from mergekit_tokenadapt.tokenizer.text_measures import (
    TokenizedDocument,
    boundaries_inside_characters,
    measure,
    renyi_efficiency,
    tokenize,
    tokens_per_word,
    word_spans,
)
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind


def cut(*pieces: bytes) -> TokenizedDocument:
    """A document cut into these pieces; equal pieces are one token."""
    ids = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    return TokenizedDocument(
        b"".join(pieces).decode(), np.array([ids[p] for p in pieces]), np.cumsum([len(p) for p in pieces]), True
    )


# --- on text -------------------------------------------------------------------------------------


def test_renyi_efficiency_by_hand() -> None:
    # p = (1/2, 1/4, 1/4): sum of squares 3/8, H_2 = log(8/3); a vocabulary of 8.
    assert renyi_efficiency(np.array([2, 1, 0, 1]), 8, alpha=2) == pytest.approx(math.log(8 / 3) / math.log(8))
    # alpha 2.5, one token only: no entropy.
    assert renyi_efficiency(np.array([0, 7]), 8) == 0
    assert renyi_efficiency(np.array([3, 3, 3, 3]), 16) == pytest.approx(0.5)


def test_renyi_efficiency_tends_to_shannon() -> None:
    p = np.array([0.5, 0.3, 0.2])
    shannon = -(p * np.log(p)).sum() / math.log(3)
    assert renyi_efficiency(p, 3, alpha=1 + 1e-6) == pytest.approx(shannon, abs=1e-5)


def test_fertility_by_hand() -> None:
    document = cut(b"un", b"happy", b" dogs", b" b", b"ar", b"k", b"!")
    assert tokens_per_word(document).tolist() == [2, 1, 3]
    report = measure([document], 16)
    assert report["fertility"] == 2
    assert report["single_token_words"] == pytest.approx(1 / 3)
    assert report["bytes_per_token"] == pytest.approx(18 / 7)


def test_a_token_over_two_words_counts_for_both() -> None:
    assert tokens_per_word(cut(b"of the", b" sea")).tolist() == [1, 1, 1]


def test_words_keep_their_marks_and_scripts_without_spaces_have_none() -> None:
    hindi = "सभी को"
    assert [hindi[a:b] for a, b in word_spans(hindi)] == ["सभी", "को"]
    assert tokens_per_word(cut("人人生而".encode(), b" the")).tolist() == [1]
    assert measure([cut("人人".encode())], 16)["fertility"] is None


def test_boundaries_inside_characters_by_hand() -> None:
    euro = "€".encode()
    assert boundaries_inside_characters(cut(b"a", euro[:1], euro[1:], b"b")) == (1, 3)
    assert boundaries_inside_characters(cut(b"abc")) == (0, 0)


def test_byte_level_tokens_measured_end_to_end(tmp_path: Path) -> None:
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(["the river"], 300), tmp_path / "t")
    tokenizer = load_tokenizer(str(folder))
    (document,) = tokenize(tokenizer, ["the €"])
    assert [tokenizer.vocabulary.by_id[int(i)].bytes for i in document.ids] == [b"the", b" ", b"\xe2", b"\x82", b"\xac"]
    report = measure([document], len(tokenizer.vocabulary))
    assert report["boundaries_inside_characters"] == pytest.approx(2 / 4)
    assert report["exact_round_trips"] == 1


# --- habits --------------------------------------------------------------------------------------


def groups_from_the_right(number: str) -> list[str]:
    return f"{int(number):,}".split(",")


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        (list, "one by one"),
        (lambda n: [n[i : i + 3] for i in range(0, len(n), 3)], "groups of 3 from the left"),
        (groups_from_the_right, "groups of 3 from the right"),
        (lambda n: [n[:1], n[1:]] if len(n) > 1 else [n], "learned"),
    ],
)
def test_digit_rules(how: Callable[[str], list[str]], rule: str) -> None:
    assert digit_grouping(how) == rule


def test_habits_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    lines = ["x" + " " * 8 + "y" + " " * 8 + "z", "\n\n\n\n", "a river a stone"] * 5
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(lines, 320), tmp_path / "t")
    found = habits(load_tokenizer(str(folder)))
    assert found["digits"] == "one by one"
    assert found["longest_spaces"] == 7  # the eighth belongs to the next word
    assert found["longest_newlines"] == 4
    assert found["longest_tabs"] == 1
    assert found["space_between_words"] == "with the next word"


# --- make-up -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "script"),
    [
        (b" river", "word start", "Latin"),
        ("река".encode(), "word inside", "Cyrillic"),
        ("人民".encode(), "word inside", "Han"),
        ("の人".encode(), "word inside", "several"),
        (b" 2024", "number", None),
        (b"!=", "punctuation and symbols", None),
        (b"    ", "white space", None),
        (b"don't", "mixed", "Latin"),
        (b"\xe2\x82", "part of a character", None),
        (b"a\xe2", "parts of several characters", None),
        (b"\x9d\xe4", "parts of several characters", None),
        (b"\x01", "control characters", None),
    ],
)
def test_kinds_and_scripts(content: bytes, kind: str, script: str | None) -> None:
    token = Token(0, "", content, TokenKind.ORDINARY)
    assert kind_of(token) == kind
    assert script_of(token) == script
    assert kind in KINDS


def test_every_token_has_one_kind(out: Path) -> None:
    vocabulary = load_tokenizer(str(out)).vocabulary
    report = make_up(vocabulary)
    assert sum(report["kinds"].values()) == len(vocabulary)
    assert report["kinds"]["special"] == 4


# --- words ---------------------------------------------------------------------------------------


def ordinary(*texts: str) -> list[Token]:
    return [Token(n, t, t.encode(), TokenKind.ORDINARY) for n, t in enumerate(texts)]


def test_share_of_words_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "units.txt"
    file.write_text("ev\n-ler\n\nGel\n")
    units = read_units(file)
    assert units == {"ev", "ler", "gel"}
    tokens = [*ordinary(" Ev", "ler", "xq", "!", " 12"), Token(9, "", b"\xff", TokenKind.ORDINARY)]
    assert share_in(tokens, units) == pytest.approx(2 / 4)  # "!" and "12" are not asked, the broken byte is no unit
    assert share_in([], units) == 0


def test_single_letters_are_words_only_where_a_character_can_be_one() -> None:
    assert share_in(ordinary("a", "人"), {"a", "人"}) == pytest.approx(1 / 2)


def test_words_come_from_wordfreq(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(
        available_languages=lambda: {"tr": "", "en": ""},
        get_frequency_dict=lambda language, wordlist: {"Ev": 0.1, "gel": 0.2},
    )
    monkeypatch.setitem(sys.modules, "wordfreq", library)
    assert words_of("tr") == {"ev", "gel"}
    with pytest.raises(TokenAdaptError, match="wordfreq has no words of 'xx'; it has en, tr"):
        words_of("xx")


def test_a_missing_wordfreq_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(TokenAdaptError, match=r"pip install 'mergekit-tokenadapt\[words\]'"):
        words_of("tr")


# --- the command ---------------------------------------------------------------------------------

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
