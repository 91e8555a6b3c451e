"""Kinds and scripts of tokens."""

from __future__ import annotations

import pytest

from mergekit_tokenadapt.tokenizer.scripts import KINDS, kind_of, script_of
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind


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
