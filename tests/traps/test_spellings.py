"""The same text spelt in different ways: byte-level, SentencePiece with byte fallback, Unigram, WordPiece."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, METASPACE, added, make_transfer, plain_definition

from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary, byte_alphabet
from mergekit_tokenadapt.transfer.matching import Reason, match

ALPHABET = byte_alphabet()
DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def byte_level(*contents: bytes) -> Vocabulary:
    spellings = ["".join(ALPHABET[byte] for byte in content) for content in contents]
    return Vocabulary.from_definition(plain_definition(spellings, decoder=BYTE_LEVEL))


def sentencepiece(*spellings: str) -> Vocabulary:
    return Vocabulary.from_definition(plain_definition(spellings, decoder=DECODER, byte_fallback=True))


def unigram(*pieces: str) -> Vocabulary:
    definition = plain_definition({}, decoder=METASPACE, pre_tokenizer=METASPACE)
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[p, -1.0] for p in ("<unk>", *pieces)]}
    return Vocabulary.from_definition(definition)


TEXTS = {
    "newline": "\n",
    "newlines": "\n\n\n",
    "tab": "\t",
    "carriage return": "\r\n",
    "one space": " ",
    "spaces": " " * 7,
    "spaces and a word": "    return",
    "space after": "end ",
    "inner spaces": "of  the",
    "both sides": " a b ",
    "no-break space": "\u00a0",
    "ideographic space": "\u3000",
    "zero-width space": "\u200b",
    "control": "\x00\x07\x1b",
    "CJK": "河流",
    "emoji": "🍞",
    "family of emoji": "👨‍👩‍👧",
    "flag": "🇩🇪",
    "combining": "e\u0301",
    "composed": "\u00e9",
    "accents": "über Straße",
    "right to left": "الطاحونة",
    "the byte-level space": "Ġ",
    "the byte-level newline": "Ċ",
    "a byte token's spelling in a word": "x<0x0A>",
    "a word suffix": "low</w>",
    "a continuation": "##ing",
    "byte order mark": "\ufeff",
    "last code point": "\U0010ffff",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_one_text_in_three_spellings_is_one_token(text: str) -> None:
    """In each direction; a token of nearly the same bytes beside it is never taken for it."""
    near = text + "!"
    marked, near_marked = text.replace(" ", "▁"), near.replace(" ", "▁")
    vocabularies = [
        byte_level(near.encode(), text.encode()),
        sentencepiece(near_marked, marked),
        unigram(near_marked, marked),
    ]
    for base, target in itertools.permutations(vocabularies, 2):
        old, new = (next(t for t in v if t.bytes == text.encode()) for v in (base, target))
        found = match(base, target)
        assert (found.reasons[new.id], found.sources[new.id]) == (Reason.COPIED, old.id)
        assert base.by_id[found.sources[new.id]].text == text


@pytest.mark.parametrize("byte", [0x00, 0x0A, 0x20, 0x41, 0x80, 0xA0, 0xBF, 0xC3, 0xE4, 0xF0, 0xFF])
def test_a_lone_byte_in_two_spellings_is_one_token(byte: int) -> None:
    base, target = byte_level(b"x", bytes([byte])), sentencepiece("x", f"<0x{byte:02X}>")
    assert match(base, target).sources.tolist() == [0, 1]
    assert match(target, base).sources.tolist() == [0, 1]


def test_composed_and_combining_characters_are_two_tokens() -> None:
    """They look the same and are other bytes: another token than the base model learned."""
    found = match(byte_level("é".encode()), sentencepiece("e\u0301"))
    assert found.reasons.tolist() == [Reason.NEW]


@pytest.mark.parametrize(
    ("content", "lookalike"),
    [(" the", "Ġthe"), (" the", "▁the"), ("\n", "Ċ"), ("\n", "<0x0A>"), ("  ", "▁▁"), ("é", "Ã©")],
)
def test_a_spelling_as_real_text_of_an_added_token_is_not_what_it_spells(content: str, lookalike: str) -> None:
    """An added token outside the model is matched as it stands: `Ġthe` is then five characters."""
    base = byte_level(content.encode())
    for decoder in (BYTE_LEVEL, DECODER):
        definition = plain_definition(["x"], [added(lookalike, 1, special=False)], decoder=decoder)
        target = Vocabulary.from_definition(definition)
        assert target.by_id[1].text == lookalike
        assert match(base, target).reasons[1] == Reason.NEW
        assert match(target, base).reasons[0] == Reason.NEW


INCOMPLETE = st.binary(min_size=1, max_size=6).filter(
    lambda content: Token(0, "", content, TokenKind.ORDINARY).text is None
)


@given(
    st.sets(st.one_of(INCOMPLETE, st.sampled_from([b"\xe4\xff", b"\\xe4\xff", b"\\\\xe4\xff", b"\\\xff"])), min_size=2)
)
def test_no_two_incomplete_tokens_share_a_row_or_a_cache_entry(contents: set[bytes]) -> None:
    """What embedding spaces are asked for, and cached by, is the label; what is copied goes by the bytes."""
    ordered = sorted(contents)
    target = byte_level(*ordered)
    assert [t.bytes for t in target] == ordered
    assert len({t.label for t in target}) == len(ordered)
    found = match(byte_level(*reversed(ordered)), target)
    assert found.sources.tolist() == list(reversed(range(len(ordered))))


def test_real_incomplete_tokens_get_rows_of_their_own(zoo: Mapping) -> None:
    """Made of their bytes, in order of meaning: no two of the byte-level vocabulary have the same mixture."""
    plan = make_transfer(zoo["sentencepiece-bpe"], zoo["byte-level"]).make_plan()
    target = zoo["byte-level"].vocabulary
    rows: dict[tuple, bytes] = {}
    for row in plan.composed_ids.tolist():
        token = target.by_id[row]
        if token.text is None:
            made_of = tuple(plan.explain(row))
            assert sorted(rows.setdefault(made_of, token.bytes)) == sorted(token.bytes), token
    assert len(rows) > 5
