"""Whole words among the tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.tokenizer_quality.words import read_units, share_in, words_of
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind


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
