"""Measures of a tokenized text, on cases worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.text_measures import (
    TokenizedDocument,
    boundaries_inside_characters,
    measure,
    renyi_efficiency,
    tokenize,
    tokens_per_word,
    word_spans,
)


def document_of(*pieces: bytes) -> TokenizedDocument:
    """A document segmented into these pieces; equal pieces are one token."""
    ids = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    return TokenizedDocument(
        b"".join(pieces).decode(), np.array([ids[p] for p in pieces]), np.cumsum([len(p) for p in pieces]), True
    )


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
    document = document_of(b"un", b"happy", b" dogs", b" b", b"ar", b"k", b"!")
    assert tokens_per_word(document).tolist() == [2, 1, 3]
    report = measure([document], 16)
    assert report["fertility"] == 2
    assert report["single_token_words"] == pytest.approx(1 / 3)
    assert report["bytes_per_token"] == pytest.approx(18 / 7)


def test_a_token_over_two_words_counts_for_both() -> None:
    assert tokens_per_word(document_of(b"of the", b" sea")).tolist() == [1, 1, 1]


def test_words_keep_their_marks_and_scripts_without_spaces_have_none() -> None:
    hindi = "सभी को"
    assert [hindi[a:b] for a, b in word_spans(hindi)] == ["सभी", "को"]
    assert tokens_per_word(document_of("人人生而".encode(), b" the")).tolist() == [1]
    assert measure([document_of("人人".encode())], 16)["fertility"] is None


def test_boundaries_inside_characters_by_hand() -> None:
    euro = "€".encode()
    assert boundaries_inside_characters(document_of(b"a", euro[:1], euro[1:], b"b")) == (1, 3)
    assert boundaries_inside_characters(document_of(b"abc")) == (0, 0)


def test_byte_level_tokens_measured_end_to_end(tmp_path: Path) -> None:
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(["the river"], 300), tmp_path / "t")
    tokenizer = load_tokenizer(str(folder))
    (document,) = tokenize(tokenizer, ["the €"])
    assert [tokenizer.vocabulary.by_id[int(i)].bytes for i in document.ids] == [b"the", b" ", b"\xe2", b"\x82", b"\xac"]
    report = measure([document], len(tokenizer.vocabulary))
    assert report["boundaries_inside_characters"] == pytest.approx(2 / 4)
    assert report["exact_round_trips"] == 1
