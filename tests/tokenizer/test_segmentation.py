"""Segmenting true text into pieces of the old vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import tokenizers_zoo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers_zoo import BYTE_LEVEL, LOSSLESS, METASPACE, added, plain_definition

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, tokenizer_of
from mergekit_tokenadapt.tokenizer.segmentation import Pieces, Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary


@pytest.fixture(scope="session")
def segmenters(zoo: Mapping[str, TokenizerFiles]) -> Mapping[str, Segmenter]:
    return {family: Segmenter(files.definition, files.vocabulary) for family, files in zoo.items()}


def spellings(vocabulary: Vocabulary, pieces: Pieces, index: int = 0) -> list[str]:
    return [vocabulary.by_id[i].spelling for i in pieces[index].tolist()]


def joined(vocabulary: Vocabulary, ids: Any) -> bytes:
    return b"".join(vocabulary.by_id[int(i)].bytes for i in ids)


def segmenter_of(definition: dict[str, Any], num_rows: int | None = None, **roles: str) -> tuple[Segmenter, Vocabulary]:
    vocabulary = Vocabulary.from_definition(definition, roles)
    return Segmenter(definition, vocabulary, num_rows), vocabulary


# --- the same bytes ------------------------------------------------------------------------------

# A real U+2581 is a space to SentencePiece: such a tokenizer cannot express it, whoever segments it.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"))
WORDS = st.lists(st.sampled_from([*" \n\t.<>|", "  ", " the", "river", "ing", "河", "é", "🍞", "</s>", "<0x0A>", "1"]))


@pytest.mark.parametrize("family", LOSSLESS)
@settings(max_examples=150)
@given(text=TEXT | WORDS.map("".join))
@example(text="        the   river\n\n\n  ")
@example(text="<|im_end|></s><eos><0x0A>")
@example(text="e\u0301 \u00e9 \u2126 \ufb01 \u3000 \u200b")
def test_pieces_concatenate_to_the_same_bytes(
    family: str, text: str, zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    (ids,) = segmenters[family].segment([text.encode()])
    assert joined(zoo[family].vocabulary, ids) == text.encode()


@pytest.mark.parametrize("family", LOSSLESS)
@settings(max_examples=100)
@given(content=st.binary())
def test_any_bytes_are_made_of_pieces(
    family: str, content: bytes, zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    (ids,) = segmenters[family].segment([content])
    assert joined(zoo[family].vocabulary, ids) == content


@pytest.mark.parametrize("base", LOSSLESS)
def test_every_token_of_every_other_family_is_made_of_its_bytes(
    base: str, zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    vocabulary = zoo[base].vocabulary
    for family, files in zoo.items():
        tokens = [t for t in files.vocabulary if "▁".encode() not in t.bytes]
        pieces = segmenters[base].segment([t.bytes for t in tokens])
        for token, ids in zip(tokens, pieces, strict=True):
            assert joined(vocabulary, ids) == token.bytes, (family, token)


def test_unigram_pieces_concatenate_where_all_characters_are_known(
    zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    for text in ["ing", " the river", "the", "  of the  mill", "河 川", "x, y.", " "]:
        (ids,) = segmenters["unigram"].segment([text.encode()])
        assert joined(zoo["unigram"].vocabulary, ids) == text.encode()


@pytest.mark.parametrize("family", LOSSLESS)
def test_invalid_utf8_gives_single_byte_tokens(family: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    vocabulary = zoo[family].vocabulary
    (ids,) = Segmenter(zoo[family].definition, vocabulary).segment([b" a\xe4\xb8"])
    assert [vocabulary.by_id[i].bytes for i in ids] == [b" ", b"a", b"\xe4", b"\xb8"]


def test_bytes_without_a_token_are_dropped(segmenters: Mapping[str, Segmenter]) -> None:
    (ids,) = segmenters["unigram"].segment([b"\xe4\xb8"])
    assert ids.tolist() == []


# --- no dummy space ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece-bpe", "gemma-style", "unigram"])
def test_no_dummy_space_is_put_before_a_text(
    family: str, zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    pieces = segmenters[family].segment([b"ing", b" river", b"a", b""])
    content = [joined(zoo[family].vocabulary, ids) for ids in pieces]
    assert content == [b"ing", b" river", b"a", b""]


def test_without_care_these_tokenizers_would_put_one(zoo: Mapping[str, TokenizerFiles]) -> None:
    """So that the test above can fail."""
    for family in ("sentencepiece-bpe", "unigram"):
        vocabulary = zoo[family].vocabulary
        assert joined(vocabulary, zoo[family].fast_tokenizer().encode("ing").ids) == b" ing"


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": METASPACE},
        {"pre_tokenizer": METASPACE | {"prepend_scheme": "first", "split": False}},
        {"normalizer": {"type": "Prepend", "prepend": "▁"}, "decoder": METASPACE},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            }
        },
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [METASPACE]}},
    ],
    ids=["metaspace", "metaspace first", "prepend", "nested prepend", "nested metaspace"],
)
def test_every_way_to_declare_a_dummy_space_is_switched_off(parts: dict[str, Any]) -> None:
    segmenter, vocabulary = segmenter_of(plain_definition(["<unk>", "▁", "a"], unk_token="<unk>", **parts))
    assert spellings(vocabulary, segmenter.segment([b"a"])) == ["a"]


def test_byte_level_prefix_space_is_switched_off() -> None:
    pre_tokenizer = BYTE_LEVEL | {"add_prefix_space": True}
    segmenter, vocabulary = segmenter_of(plain_definition(["Ġ", "a"], pre_tokenizer=pre_tokenizer))
    assert spellings(vocabulary, segmenter.segment([b"a", b" a"])) == ["a"]
    assert spellings(vocabulary, segmenter.segment([b"a", b" a"]), 1) == ["Ġ", "a"]


def test_a_leading_space_survives_in_t5_style_tokenizers() -> None:
    """They split at white space before the Metaspace: only its dummy space says that there was one."""
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
    definition = plain_definition({}, pre_tokenizer=pre_tokenizer, decoder=METASPACE)
    vocab = [["<unk>", 0.0], ["▁the", -1.0], ["the", -2.0], ["▁mill", -1.0], ["mill", -2.0], ["▁", -3.0]]
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    segmenter, vocabulary = segmenter_of(definition)
    pieces = segmenter.segment([b" the", b"the", b" the mill"])
    assert [joined(vocabulary, ids) for ids in pieces] == [b" the", b"the", b" the mill"]


def test_a_leading_space_survives_a_normalizer_that_strips() -> None:
    """DeBERTa's removes white space around a text, and Metaspace puts one space before it."""
    normalizer = {"type": "Strip", "strip_left": True, "strip_right": True}
    definition = plain_definition({}, normalizer=normalizer, pre_tokenizer=METASPACE, decoder=METASPACE)
    vocab = [["<unk>", 0.0], ["▁the", -1.0], ["the", -2.0], ["▁mill", -1.0], ["mill", -2.0], ["▁", -3.0]]
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    segmenter, vocabulary = segmenter_of(definition)
    pieces = segmenter.segment([b" the", b"the", b" the mill"])
    assert [joined(vocabulary, ids) for ids in pieces] == [b" the", b"the", b" the mill"]


@pytest.mark.parametrize(
    ("entries", "text", "expected"),
    [
        ([added("<s>", 4), added("xyz", 5, special=False), added("uvw", 6, special=False)], b"auvwbxyz", [1, 6, 2, 5]),
        ([added("xyz", 9, special=False)], b"axyzb", [1, 9, 2]),
    ],
    ids=["behind a special token", "behind a gap"],
)
def test_added_tokens_of_unigram_keep_their_ids(
    entries: list[dict[str, Any]], text: bytes, expected: list[int]
) -> None:
    definition = plain_definition({}, entries)
    vocab = [["<unk>", 0.0], ["a", -1.0], ["b", -1.0], ["c", -1.0]]
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    segmenter, _ = segmenter_of(definition)
    (ids,) = segmenter.segment([text])
    assert ids.tolist() == expected


def test_the_post_processor_adds_nothing(zoo: Mapping[str, TokenizerFiles]) -> None:
    definition = dict(zoo["byte-level"].definition)
    vocabulary = zoo["byte-level"].vocabulary
    start = vocabulary.roles["bos"]
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [start], "tokens": ["<|im_start|>"]}},
    }
    assert Tokenizer.from_str(json.dumps(definition)).encode("a").ids[0] == start
    (ids,) = Segmenter(definition, vocabulary).segment([b"a"])
    assert ids.tolist() == [vocabulary.by_spelling["a"].id]


def test_truncation_and_padding_are_switched_off(zoo: Mapping[str, TokenizerFiles]) -> None:
    files = zoo["byte-level"]
    fast = tokenizer_of(files.definition)
    fast.enable_truncation(3)
    fast.enable_padding(length=8, pad_id=0, pad_token="<|endoftext|>")
    pieces = Segmenter(json.loads(fast.to_str()), files.vocabulary).segment([b"a", b"q w r z k"])
    assert [joined(files.vocabulary, ids) for ids in pieces] == [b"a", b"q w r z k"]


# --- special, unknown and missing tokens ---------------------------------------------------------


def test_special_token_strings_inside_text_are_text(
    family: str, zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    """A new token such as ``</s>`` of a tutorial is made of "<", "/", "s", ">", not lost."""
    vocabulary = zoo[family].vocabulary
    special = set(vocabulary.ids(TokenKind.SPECIAL).tolist())
    for token_id in special:
        spelling = vocabulary.by_id[token_id].spelling
        (ids,) = segmenters[family].segment([f"a{spelling}b".encode()])
        assert not special & set(ids.tolist()), spelling
        if family in LOSSLESS:
            assert joined(vocabulary, ids) == f"a{spelling}b".encode()
        else:  # cannot express all of these characters, but some of them
            assert len(ids) > 2, spelling


def test_a_token_that_is_special_only_by_its_role_is_not_recognised_in_text() -> None:
    definition = plain_definition([*"a<e>"], [added("<e>", 4, special=False)], decoder=BYTE_LEVEL)
    segmenter, vocabulary = segmenter_of(definition, eos="<e>")
    assert spellings(vocabulary, segmenter.segment([b"a<e>"])) == ["a", "<", "e", ">"]


def test_added_tokens_that_are_not_special_are_recognised(
    zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    assert spellings(zoo["byte-level"].vocabulary, segmenters["byte-level"].segment([b"x<tool>x"])) == [
        "x",
        "<tool>",
        "x",
    ]


@pytest.mark.parametrize(
    "model",
    [
        {"type": "BPE", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "merges": [], "unk_token": "<unk>"},
        {
            "type": "WordPiece",
            "vocab": {"<unk>": 0, "a": 1, "b": 2},
            "unk_token": "<unk>",
            "max_input_chars_per_word": 9,
        },
        {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "unk_token": "<unk>"},
        {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -1.0]], "unk_id": 0},
    ],
    ids=["bpe", "wordpiece", "wordlevel", "unigram"],
)
def test_unknown_tokens_are_dropped(model: dict[str, Any]) -> None:
    definition = plain_definition(
        {}, pre_tokenizer={"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    )
    definition["model"] = {"continuing_subword_prefix": "##", **model} if model["type"] == "WordPiece" else model
    segmenter, _ = segmenter_of(definition)
    pieces = segmenter.segment(["a河b".encode(), "河".encode()])
    assert [ids.tolist() for ids in pieces] == [[1, 2], []]


def test_ids_beyond_the_rows_are_replaced_by_bytes(zoo: Mapping[str, TokenizerFiles]) -> None:
    files = zoo["byte-level"]
    vocabulary = files.vocabulary
    (whole,) = Segmenter(files.definition, vocabulary).segment([b" the river"])
    rows = int(whole.max())
    assert rows > max(vocabulary.single_bytes.values())
    (ids,) = Segmenter(files.definition, vocabulary, rows).segment([b" the river"])
    assert max(ids) < rows
    assert joined(vocabulary, ids) == b" the river"
    assert len(ids) > len(whole)


def test_bytes_beyond_the_rows_are_dropped() -> None:
    segmenter, _ = segmenter_of(plain_definition({"a": 0, "b": 1, "c": 2}, decoder=BYTE_LEVEL), num_rows=2)
    assert segmenter.segment([b"abcba"])[0].tolist() == [0, 1, 1, 0]
    assert segmenter.segment([b"c\xff"])[0].tolist() == []


def test_ids_with_gaps_are_used_as_they_are(zoo: Mapping[str, TokenizerFiles]) -> None:
    files = zoo["byte-level"]
    spread = tokenizers_zoo.renumbered(dict(files.definition), lambda i: 3 * i + 1)
    texts = [b" the river", b"<tool>x", b"\xe4"]
    sparse = Segmenter(spread, Vocabulary.from_definition(spread)).segment(texts)
    dense = Segmenter(files.definition, files.vocabulary).segment(texts)
    assert [ids.tolist() for ids in sparse] == [(3 * ids + 1).tolist() for ids in dense]


def test_an_added_token_behind_a_gap_gives_its_own_id() -> None:
    definition = plain_definition({"a": 0, "b": 1, "c": 3}, [added("<x>", 7, special=False)], decoder=BYTE_LEVEL)
    segmenter, _ = segmenter_of(definition)
    assert segmenter.segment([b"a<x>b"])[0].tolist() == [0, 7, 1]


# --- Pieces --------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 1000))))
def test_packed_lists_come_out_as_they_went_in(lists: list[list[int]]) -> None:
    pieces = Pieces.from_lists(lists)
    assert len(pieces) == len(lists)
    assert [pieces[n].tolist() for n in range(len(pieces))] == lists
    assert pieces.counts.tolist() == [len(ids) for ids in lists]
    assert pieces.rows.tolist() == [n for n, ids in enumerate(lists) for _ in ids]
    assert (pieces.ids.dtype, pieces.indptr.dtype) == ("int64", "int64")


def test_segmenting_nothing_gives_nothing(segmenters: Mapping[str, Segmenter]) -> None:
    assert len(segmenters["byte-level"].segment([])) == 0


def test_the_order_of_texts_is_kept(zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]) -> None:
    texts = [b"a", b"\xff", b"the", b"\xe4\xb8", b"", b"b"]
    pieces = segmenters["byte-level"].segment(texts)
    assert [joined(zoo["byte-level"].vocabulary, ids) for ids in pieces] == texts


def test_segmenting_does_not_change_the_definition(zoo: Mapping[str, TokenizerFiles]) -> None:
    for files in zoo.values():
        before = json.dumps(files.definition)
        Segmenter(files.definition, files.vocabulary).segment([b"the"])
        assert json.dumps(files.definition) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ing", ["##ing"]),  # not `in`, `##g`
        (" ing", ["in", "##g"]),
        ("river", ["river"]),  # not `##r`, `##iver`: a word at the beginning of a line has no space, either
        ("er the", ["##er", "the"]),
        (".", ["."]),
        ("ĳ", []),
    ],
    ids=repr,
)
def test_a_text_without_a_space_may_continue_a_word(
    text: str, expected: list[str], zoo: Mapping[str, TokenizerFiles], segmenters: Mapping[str, Segmenter]
) -> None:
    pieces = segmenters["wordpiece"].segment([text.encode()])
    assert spellings(zoo["wordpiece"].vocabulary, pieces) == expected
