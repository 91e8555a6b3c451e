"""What a token is: its bytes and kind, in every family of tokenizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import tokenizers_zoo
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, METASPACE, added, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import MAX_TOKEN_ID, Token, TokenKind, Vocabulary, byte_alphabet

SENTENCEPIECE_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def read(definition: Mapping[str, Any], **roles: str) -> Vocabulary:
    return Vocabulary.from_definition(definition, roles)


# --- bytes ---------------------------------------------------------------------------------------


def test_tokens_decode_in_context_to_their_text(family: str, tokenizer: TokenizerFiles) -> None:
    """The judge is `tokenizers`: after an anchor, a token adds its own text to what is decoded."""
    fast = tokenizer.fast_tokenizer()
    vocabulary = tokenizer.vocabulary
    anchor = vocabulary.by_spelling["x"].id
    before = fast.decode([anchor], skip_special_tokens=False)
    checked = 0
    for token in vocabulary:
        # Parts of a character decode to U+FFFD; a special token stands for a role, not for a text.
        if token.text is None or token.kind is TokenKind.SPECIAL:
            continue
        # WordPiece: its decoder puts a space before lone punctuation and ideographs too, or cleans it
        # up, by rules about English. In the text they follow their neighbour directly.
        if family == "wordpiece" and len(token.spelling) == 1 and not token.bytes.startswith(b" "):
            continue
        assert fast.decode([anchor, token.id], skip_special_tokens=False) == before + token.text, token
        checked += 1
    assert checked > 0.6 * len(vocabulary)


def shown(tokenizer: TokenizerFiles, ids: list[int]) -> str:
    """What the tokenizer decodes; CLIP's class, in transformers, makes a space of each end of a word."""
    text: str = tokenizer.fast_tokenizer().decode(ids, skip_special_tokens=False)
    return text.replace("</w>", " ").strip(" ")


@given(data=st.data())
def test_rarer_spellings_decode_in_context_to_their_text(other_spelling: TokenizerFiles, data: st.DataObject) -> None:
    vocabulary = other_spelling.vocabulary
    text_tokens = [t for t in vocabulary if t.text is not None and t.kind is not TokenKind.SPECIAL]
    # Without a space before it in a text, but with one where it is decoded.
    told = [t for t in text_tokens if not (len(t.spelling) == 1 and t.bytes == t.spelling.encode())]
    words = told if any(t.bytes.startswith(b" ") for t in told) else text_tokens
    anchor = next(t for t in words if t.bytes.strip() == b"the")
    tokens = [anchor, *data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=6)), anchor]
    assert shown(other_spelling, [t.id for t in tokens]) == "".join(t.text or "" for t in tokens).strip(" ")


def test_every_token_of_a_rarer_spelling_shows_its_text_between_others(other_spelling: TokenizerFiles) -> None:
    vocabulary = other_spelling.vocabulary
    anchor = next(t for t in vocabulary if t.bytes.strip() == b"the")
    checked = 0
    for token in vocabulary:
        if token.text is None or token.kind is TokenKind.SPECIAL:
            continue
        # Lone punctuation follows its neighbour in a text, but stands alone where it is decoded.
        if token.text == token.spelling and len(token.text) == 1 and anchor.bytes.startswith(b" "):
            continue
        expected = f"{anchor.text}{token.text}{anchor.text}".strip(" ")
        assert shown(other_spelling, [anchor.id, token.id, anchor.id]) == expected, token
        checked += 1
    assert checked > 0.4 * len(vocabulary)


def test_text_of_a_rarer_spelling_is_made_of_the_bytes_of_its_tokens(other_spelling: TokenizerFiles) -> None:
    text = "the river walked to the sea and the mill walked with her"
    ids = other_spelling.fast_tokenizer().encode(text, add_special_tokens=False).ids
    tokens = [other_spelling.vocabulary.by_id[i] for i in ids]
    assert b"".join(t.bytes for t in tokens).decode().strip(" ") == text


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece-bpe", "gemma-style"])
def test_encoded_text_is_made_of_the_bytes_of_its_tokens(family: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    text = "x" + "\n".join(tokenizers_zoo.CORPUS) + "   unseen ✨ \u0000 é e\u0301"
    tokenizer = zoo[family]
    ids = tokenizer.fast_tokenizer().encode(text, add_special_tokens=False).ids
    content = b"".join(tokenizer.vocabulary.by_id[i].bytes for i in ids)
    assert content.removeprefix(b" ").decode() == text  # Llama style puts a dummy space before the text


def test_byte_alphabet_covers_256_values() -> None:
    alphabet = byte_alphabet()
    assert len(alphabet) == len(set(alphabet)) == 256
    assert all(character.isprintable() and not character.isspace() for character in alphabet)


def test_byte_alphabet_is_the_one_that_tokenizers_uses() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_alphabet()) == set(ByteLevel.alphabet())
    split = ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(0x80))) + "é€🍞"
    expected = "".join(byte_alphabet()[byte] for byte in text.encode())
    assert "".join(piece for piece, _ in split.pre_tokenize_str(text)) == expected


def test_every_byte_has_a_token_in_a_byte_level_vocabulary(zoo: Mapping[str, TokenizerFiles]) -> None:
    assert sorted(zoo["byte-level"].vocabulary.single_bytes) == list(range(256))


def test_incomplete_utf8_keeps_its_bytes() -> None:
    vocabulary = read(plain_definition(["ä¸", "Ġä", "Ń"], decoder=BYTE_LEVEL))
    assert [t.bytes for t in vocabulary] == [b"\xe4\xb8", b" \xe4", b"\xad"]
    assert [t.text for t in vocabulary] == [None, None, None]
    assert [t.label for t in vocabulary] == ["\\xe4\\xb8", " \\xe4", "\\xad"]


def test_a_zoo_tokenizer_has_incomplete_utf8(zoo: Mapping[str, TokenizerFiles]) -> None:
    """So that the tests over the zoo see such tokens."""
    assert any(t.text is None and len(t.bytes) > 1 for t in zoo["byte-level"].vocabulary)


@given(st.binary(min_size=1))
def test_any_bytes_can_be_spelt_in_the_byte_alphabet(content: bytes) -> None:
    spelling = "".join(byte_alphabet()[byte] for byte in content)
    token = read(plain_definition([spelling], decoder=BYTE_LEVEL)).tokens[0]
    assert token.bytes == content


def test_a_spelling_outside_the_byte_alphabet_stands_as_it_is() -> None:
    assert read(plain_definition(["▁a€"], decoder=BYTE_LEVEL)).tokens[0].bytes == "▁a€".encode()


@pytest.mark.parametrize(
    "where",
    [
        {"decoder": BYTE_LEVEL},
        {"pre_tokenizer": BYTE_LEVEL},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "ByteLevel"}]}},
    ],
    ids=["decoder", "pre-tokenizer", "nested pre-tokenizer", "nested decoder", "normalizer"],
)
def test_byte_level_is_recognised_wherever_it_is_declared(where: dict[str, Any]) -> None:
    assert read(plain_definition(["Ġthe"], **where)).tokens[0].bytes == b" the"


@pytest.mark.parametrize(
    "where",
    [
        {"decoder": METASPACE},
        {"pre_tokenizer": METASPACE},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, METASPACE]}},
        {"decoder": SENTENCEPIECE_DECODER},
        {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}},
    ],
    ids=["metaspace decoder", "metaspace pre-tokenizer", "nested", "replace decoder", "replace normalizer"],
)
def test_the_space_marker_is_recognised_wherever_it_is_declared(where: dict[str, Any]) -> None:
    vocabulary = read(plain_definition(["▁the", "▁▁", "a▁b", "Ġ"], **where))
    assert [t.bytes for t in vocabulary] == [b" the", b"  ", b"a b", "Ġ".encode()]


def test_another_space_marker_is_honoured() -> None:
    decoder = METASPACE | {"replacement": "_"}
    assert [t.bytes for t in read(plain_definition(["_a", "▁a"], decoder=decoder))] == [b" a", "▁a".encode()]


def test_a_literal_gpt2_space_in_a_sentencepiece_vocabulary_is_that_character(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    token = zoo["gemma-style"].vocabulary.by_spelling["Ġ"]
    assert token.bytes == "\u0120".encode()


def test_a_marker_in_a_byte_level_vocabulary_is_that_character() -> None:
    spelling = "".join(byte_alphabet()[byte] for byte in "▁".encode())
    assert read(plain_definition([spelling], decoder=BYTE_LEVEL)).tokens[0].text == "▁"


def test_byte_tokens_are_bytes_where_byte_fallback_is_on() -> None:
    vocabulary = read(plain_definition(["<0x0A>", "<0xe4>", "<0x0A", "x<0x0A>"], byte_fallback=True))
    assert [(t.bytes, t.kind) for t in vocabulary] == [
        (b"\n", TokenKind.BYTE),
        (b"\xe4", TokenKind.BYTE),
        (b"<0x0A", TokenKind.ORDINARY),
        (b"x<0x0A>", TokenKind.ORDINARY),
    ]


def test_byte_tokens_are_text_where_byte_fallback_is_off() -> None:
    token = read(plain_definition(["<0x0A>"], decoder=METASPACE)).tokens[0]
    assert (token.bytes, token.kind) == (b"<0x0A>", TokenKind.ORDINARY)


@pytest.mark.parametrize("family", ["sentencepiece-bpe", "gemma-style"])
def test_byte_fallback_families_have_256_byte_tokens(family: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    vocabulary = zoo[family].vocabulary
    byte_tokens = [vocabulary.by_id[i] for i in vocabulary.ids(TokenKind.BYTE)]
    assert [t.bytes for t in byte_tokens] == [bytes([byte]) for byte in range(256)]
    assert sorted(vocabulary.single_bytes) == list(range(256))


def test_runs_of_spaces_that_are_added_and_in_the_model_are_spaces(zoo: Mapping[str, TokenizerFiles]) -> None:
    vocabulary = zoo["gemma-style"].vocabulary
    for length in range(2, 9):
        token = vocabulary.by_spelling["▁" * length]
        assert (token.bytes, token.kind) == (b" " * length, TokenKind.ADDED)
    assert vocabulary.by_spelling["\n\n"].bytes == b"\n\n"


@pytest.mark.parametrize(
    ("spelling", "definition"),
    [
        ("▁▁", plain_definition(["a"], [added("▁▁", 1, special=False)], decoder=METASPACE)),
        ("a▁b", plain_definition(["a"], [added("a▁b", 1, special=False)], decoder=SENTENCEPIECE_DECODER)),
        ("Ġa", plain_definition(["a"], [added("Ġa", 1, special=False)], decoder=BYTE_LEVEL)),
    ],
    ids=["metaspace", "replace", "byte-level"],
)
def test_an_added_token_outside_the_model_is_matched_as_it_stands(spelling: str, definition: Any) -> None:
    token = read(definition).by_spelling[spelling]
    assert (token.bytes, token.kind) == (spelling.encode(), TokenKind.ADDED)


def test_an_added_token_that_shares_only_its_spelling_with_the_model_stands_as_it_is() -> None:
    """The entry of the model has another id: the added token is not that entry."""
    definition = plain_definition(["a", "▁▁"], [added("▁▁", 7, special=False)], decoder=METASPACE)
    assert read(definition).by_id[7].bytes == "▁▁".encode()
    assert read(definition).by_id[1].bytes == b"  "


@pytest.mark.parametrize(
    ("spelling", "content"),
    [
        ("the", b" the"),
        ("##ing", b"ing"),
        ("##", b" ##"),
        (".", b"."),
        ("a", b" a"),
        ("7", b" 7"),
        ("河", "河".encode()),
        ("ن", " ن".encode()),
    ],
)
def test_wordpiece_words_start_with_a_space_and_continuations_do_not(spelling: str, content: bytes) -> None:
    definition = plain_definition([spelling], type="WordPiece", continuing_subword_prefix="##")
    assert read(definition).tokens[0].bytes == content


def test_wordpiece_honours_another_prefix() -> None:
    definition = plain_definition(["@ing", "##ing"], type="WordPiece", continuing_subword_prefix="@")
    assert [t.bytes for t in read(definition)] == [b"ing", b" ##ing"]


def test_a_word_suffix_is_a_space_after_the_word() -> None:
    vocabulary = read(plain_definition(["low", "low</w>", "</w>"], end_of_word_suffix="</w>"))
    assert [t.bytes for t in vocabulary] == [b"low", b"low ", b" "]


def test_without_any_declaration_the_spelling_is_the_text() -> None:
    assert [t.bytes for t in read(plain_definition(["Ġa", "▁a", "<0x0A>"]))] == [
        "Ġa".encode(),
        "▁a".encode(),
        b"<0x0A>",
    ]


# --- ids and order -------------------------------------------------------------------------------


def test_tokens_are_sorted_by_id_and_complete(tokenizer: TokenizerFiles) -> None:
    ids = [t.id for t in tokenizer.vocabulary]
    assert ids == sorted(set(ids))
    assert set(ids) == set(tokenizer.fast_tokenizer().get_vocab().values())
    assert tokenizer.vocabulary.num_ids == ids[-1] + 1
    assert len(tokenizer.vocabulary) == len(ids)


def test_the_order_of_entries_in_the_file_does_not_matter(tokenizer: TokenizerFiles) -> None:
    shuffled = tokenizers_zoo.shuffled_entries(dict(tokenizer.definition), seed=3)
    assert Vocabulary.from_definition(shuffled, tokenizer.role_tokens) == tokenizer.vocabulary


def test_a_definition_is_not_changed_by_reading_it(tokenizer: TokenizerFiles) -> None:
    before = copy.deepcopy(dict(tokenizer.definition))
    Vocabulary.from_definition(tokenizer.definition, tokenizer.role_tokens)
    assert tokenizer.definition == before


def test_ids_may_have_gaps() -> None:
    vocabulary = read(plain_definition({"a": 2, "b": 7, "<e>": 40}, [added("<e>", 40)], decoder=BYTE_LEVEL))
    assert len(vocabulary) == 3
    assert vocabulary.num_ids == 41
    assert vocabulary.ids().tolist() == [2, 7, 40]
    assert vocabulary.ids(TokenKind.SPECIAL).tolist() == [40]
    assert 3 not in vocabulary.by_id


def test_of_two_spellings_with_one_id_the_first_is_kept() -> None:
    for entries in ({"b": 0, "a": 0}, {"a": 0, "b": 0}):
        assert read(plain_definition(entries)).tokens == (Token(0, "a", b"a", TokenKind.ORDINARY),)


def test_unigram_ids_are_places_in_the_list() -> None:
    definition = plain_definition({}, decoder=METASPACE)
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0]]}
    assert [(t.id, t.bytes) for t in read(definition)] == [(0, b"<unk>"), (1, b" a"), (2, b"b")]


@pytest.mark.parametrize(
    "bad_id",
    [-1, MAX_TOKEN_ID + 1, 2**63, 1.0, "1", True, None],
    ids=["negative", "too large", "huge", "float", "string", "bool", "null"],
)
def test_invalid_ids_are_refused(bad_id: Any) -> None:
    with pytest.raises(TokenAdaptError, match=r"'wrong' the id .* not valid"):
        read(plain_definition({"a": 0, "wrong": bad_id}))
    with pytest.raises(TokenAdaptError, match=r"'wrong' the id .* not valid"):
        read(plain_definition({"a": 0}, [added("wrong", bad_id)]))


@pytest.mark.parametrize("content", [None, 5], ids=["missing", "number"])
def test_added_tokens_without_text_are_refused(content: Any) -> None:
    with pytest.raises(TokenAdaptError, match="not valid"):
        read(plain_definition({"a": 0}, [{"id": 1, "content": content}]))


@pytest.mark.parametrize(
    "definition",
    [{}, {"model": None}, {"model": {}}, {"model": {"vocab": 3}}, {"model": "BPE"}],
    ids=["no model", "null", "no vocab", "number", "string"],
)
def test_a_missing_vocabulary_is_refused(definition: dict[str, Any]) -> None:
    with pytest.raises(TokenAdaptError, match="no model vocabulary"):
        read(definition)


@pytest.mark.parametrize("entries", [{}, []], ids=["mapping", "list"])
def test_an_empty_vocabulary_is_refused(entries: Any) -> None:
    definition = plain_definition({})
    definition["model"]["vocab"] = entries
    with pytest.raises(TokenAdaptError, match="vocabulary is empty"):
        read(definition)


# --- kinds and roles -----------------------------------------------------------------------------


def test_kinds_follow_the_special_flag_of_added_tokens() -> None:
    vocabulary = read(plain_definition(["a"], [added("<s>", 1), added("<t>", 2, special=False)]))
    assert [t.kind for t in vocabulary] == [TokenKind.ORDINARY, TokenKind.SPECIAL, TokenKind.ADDED]


def test_a_role_makes_a_token_special() -> None:
    definition = plain_definition(["a", "</s>"], [added("<t>", 2, special=False)])
    vocabulary = read(definition, eos="</s>", pad="<t>")
    assert vocabulary.ids(TokenKind.SPECIAL).tolist() == [1, 2]
    assert vocabulary.roles == {"eos": 1, "pad": 2}


def test_one_token_can_have_several_roles() -> None:
    vocabulary = read(plain_definition(["a", "<e>"]), eos="<e>", bos="<e>", pad="<e>")
    assert vocabulary.roles == {"bos": 1, "eos": 1, "pad": 1}


def test_a_role_whose_token_is_not_in_the_vocabulary_is_missing() -> None:
    assert read(plain_definition(["a"]), pad="<pad>").roles == {}


def test_zoo_special_tokens_are_special(tokenizer: TokenizerFiles) -> None:
    vocabulary = tokenizer.vocabulary
    assert set(vocabulary.roles) == set(tokenizer.role_tokens)
    for role, spelling in tokenizer.role_tokens.items():
        token = vocabulary.by_id[vocabulary.roles[role]]
        assert (token.spelling, token.kind) == (spelling, TokenKind.SPECIAL)


# --- looking tokens up ---------------------------------------------------------------------------


def test_find_prefers_the_true_text_to_the_spelling() -> None:
    vocabulary = read(plain_definition(["Ġthe", "Ä", "ł"], decoder=BYTE_LEVEL))
    the = vocabulary.find(" the")
    assert the is not None
    assert the.id == 0
    assert vocabulary.find("Ġthe") == the
    assert vocabulary.find("nothing") is None


@pytest.mark.parametrize("spelling", ["▁▁", "Ġ"])
def test_find_of_a_real_character_is_not_mistaken_for_a_spelling(spelling: str) -> None:
    """A token whose true text is the marker wins over one that is only spelt with it."""
    decoder = METASPACE if spelling == "▁▁" else BYTE_LEVEL
    definition = plain_definition(["a", spelling], [added(spelling, 5, special=False)], decoder=decoder)
    found = read(definition).find(spelling)
    assert found is not None
    assert found.id == 5


def test_by_spelling_gives_the_lowest_id_of_a_repeated_spelling() -> None:
    definition = plain_definition(["a", "b"], [added("a", 9, special=False)])
    assert read(definition).by_spelling["a"].id == 0
    assert read(definition, eos="a").roles == {"eos": 0}


def test_single_bytes_are_not_taken_from_added_or_special_tokens() -> None:
    definition = plain_definition(["b"], [added("a", 1, special=False), added("c", 2)], decoder=BYTE_LEVEL)
    assert read(definition).single_bytes == {ord("b"): 0}


def test_an_ordinary_token_is_preferred_to_the_byte_token_of_the_same_byte() -> None:
    """In Llama's vocabulary <0x20> comes before ``▁``, and is never produced from text."""
    vocabulary = read(plain_definition(["<0x20>", "▁"], decoder=METASPACE, byte_fallback=True))
    assert vocabulary.single_bytes == {0x20: 1}


def test_hand_made_definitions_load(load: Callable[..., TokenizerFiles]) -> None:
    """What these tests write by hand is what `tokenizers` reads."""
    files = load(plain_definition(["a", "Ġthe"], [added("<s>", 2)], decoder=BYTE_LEVEL), {"eos_token": "<s>"})
    assert files.fast_tokenizer().get_vocab() == {"a": 0, "Ġthe": 1, "<s>": 2}
    assert files.vocabulary.roles == {"eos": 2}
