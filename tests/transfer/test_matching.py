"""Base vocabulary + target vocabulary -> one reason for every target row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tokenizers_zoo
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, PAIR_IDS, PAIRS, added, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap, match, read_token_map


def token(token_id: int, content: bytes, kind: TokenKind = TokenKind.ORDINARY, spelling: str | None = None) -> Token:
    return Token(token_id, content.decode("latin-1") if spelling is None else spelling, content, kind)


def vocabulary(*tokens: Token, **roles: int) -> Vocabulary:
    return Vocabulary(tuple(sorted(tokens)), roles)


def special(token_id: int, spelling: str) -> Token:
    return token(token_id, spelling.encode(), TokenKind.SPECIAL, spelling)


def check_against_reference(base: Vocabulary, target: Vocabulary, found: VocabularyMap, base_rows: int) -> None:
    """Every pair has equal bytes, and no token with an equal one is left over: plain, quadratic."""
    for new in target:
        if new.kind is TokenKind.SPECIAL:
            continue
        if markers := markers_of(new, base, target, base_rows):
            assert (found.reasons[new.id], found.sources[new.id]) == (Reason.SPECIAL, min(markers)), new
            continue
        equal = [t for t in base if t.bytes == new.bytes and t.kind is not TokenKind.SPECIAL and t.id < base_rows]
        source = int(found.sources[new.id])
        if not equal:
            assert (found.reasons[new.id], source) == (Reason.NEW, -1), new
            continue
        assert found.reasons[new.id] == Reason.COPIED, new
        as_produced = [t for t in equal if is_never_produced(t, base) == is_never_produced(new, target)] or equal
        same_kind = [t for t in as_produced if t.kind is new.kind] or as_produced
        same_spelling = [t for t in same_kind if t.spelling == new.spelling] or same_kind
        assert source == min(t.id for t in same_spelling), new


def is_never_produced(token: Token, vocabulary: Vocabulary) -> bool:
    """Whether it is a byte beside a token of the same byte, or an entry beside an added token: never trained."""
    rivals = {t.kind for t in vocabulary if t.bytes == token.bytes and t.id != token.id}
    if token.kind is TokenKind.BYTE:
        return bool(rivals & {TokenKind.ORDINARY, TokenKind.ADDED})
    return token.kind is TokenKind.ORDINARY and TokenKind.ADDED in rivals


def markers_of(new: Token, base: Vocabulary, target: Vocabulary, base_rows: int) -> list[int]:
    """Special base tokens with the string of an added token, unless it is a tag whose role another token has."""
    if new.kind is not TokenKind.ADDED:
        return []
    same = [t.id for t in base if t.kind is TokenKind.SPECIAL and t.spelling == new.spelling and t.id < base_rows]
    roles = [role for role, i in base.roles.items() if i == min(same, default=-1)]
    is_tag = new.spelling in ("<s>", "</s>") and any(target.roles.get(role, new.id) != new.id for role in roles)
    return [] if is_tag else same


# --- families ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "target"), PAIRS, ids=PAIR_IDS)
def test_pairs_have_equal_bytes_and_none_is_missed(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    old, new = zoo[base].vocabulary, zoo[target].vocabulary
    found = match(old, new)
    check_against_reference(old, new, found, old.num_ids)
    counts = found.counts()
    assert sum(counts.values()) == found.num_rows == new.num_ids
    assert counts["copied"] > 60, "letters at least are in both"
    assert counts["padding"] == 0
    assert not found.is_identity


def test_the_same_tokenizer_is_the_identity(tokenizer: TokenizerFiles) -> None:
    found = match(tokenizer.vocabulary, tokenizer.vocabulary)
    assert found.is_identity
    assert found.sources.tolist() == list(range(tokenizer.vocabulary.num_ids))
    assert found.counts()["new"] == found.counts()["padding"] == 0
    assert found.counts()["special"] == len(tokenizer.vocabulary.ids(TokenKind.SPECIAL))


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece-bpe", "gemma-style", "wordpiece"])
def test_other_ids_for_the_same_tokens_are_still_a_complete_map(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo[name]
    ids = tokenizers_zoo.permutation(base.vocabulary.num_ids, seed=5)
    moved = tokenizers_zoo.renumbered(dict(base.definition), ids.__getitem__)
    found = match(base.vocabulary, Vocabulary.from_definition(moved, base.role_tokens))
    assert not found.is_identity
    assert set(found.counts()) == {"copied", "special", "new", "padding"}
    assert found.counts()["new"] == found.counts()["padding"] == 0
    for old, new in enumerate(ids):
        assert found.sources[new] == old


def test_the_order_of_entries_does_not_matter(zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["gemma-style"], zoo["byte-level"]
    shuffled = [
        Vocabulary.from_definition(tokenizers_zoo.shuffled_entries(dict(t.definition), seed=8), t.role_tokens)
        for t in (base, target)
    ]
    one, other = match(base.vocabulary, target.vocabulary), match(*shuffled)
    np.testing.assert_array_equal(one.sources, other.sources)
    np.testing.assert_array_equal(one.reasons, other.reasons)


def test_spellings_do_not_mislead(zoo: Mapping[str, TokenizerFiles]) -> None:
    """``Ġ`` is a space here and U+0120 there; ``▁▁`` are two spaces."""
    bytes_, gemma = zoo["byte-level"].vocabulary, zoo["gemma-style"].vocabulary
    found = match(bytes_, gemma)
    assert found.reasons[gemma.by_spelling["Ġ"].id] == Reason.NEW
    assert found.sources[gemma.by_spelling["▁the"].id] == bytes_.by_spelling["Ġthe"].id
    back = match(gemma, bytes_)
    assert back.sources[bytes_.by_spelling["Ġ"].id] == gemma.by_spelling["▁"].id
    assert back.sources[bytes_.by_spelling["ä"].id] == gemma.by_spelling["<0xE4>"].id


# --- any vocabularies ----------------------------------------------------------------------------

CONTENT = st.sampled_from([b"", b"a", b"b", b" a", b"\xe4", b"\xc3\xa4", b"  ", b"<s>", b"</s>"])
KINDS = st.sampled_from(list(TokenKind))


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    entries = draw(
        st.dictionaries(
            st.integers(0, 30), st.tuples(CONTENT, KINDS, st.sampled_from(["x", "y", "<s>", "</s>"])), min_size=1
        )
    )
    tokens = [Token(i, spelling, content, kind) for i, (content, kind, spelling) in sorted(entries.items())]
    specials = [t.id for t in tokens if t.kind is TokenKind.SPECIAL]
    roles: dict[str, int] = {}
    if specials:
        roles = draw(st.dictionaries(st.sampled_from(["bos", "eos", "pad"]), st.sampled_from(specials)))
    return Vocabulary(tuple(tokens), roles)


@example(
    base=vocabulary(token(0, b"a", spelling="x"), token(1, b"a", TokenKind.BYTE, "x")),
    target=vocabulary(token(0, b"a", TokenKind.BYTE, "x")),
    base_rows=2,
    extra=0,
)  # found on Python 3.10, whose examples are others
@given(base=vocabularies(), target=vocabularies(), base_rows=st.integers(0, 35), extra=st.integers(0, 5))
def test_any_two_vocabularies_match_by_bytes(base: Vocabulary, target: Vocabulary, base_rows: int, extra: int) -> None:
    found = match(base, target, base_rows=base_rows, num_rows=target.num_ids + extra)
    check_against_reference(base, target, found, base_rows)
    assert (found.reasons.dtype, found.sources.dtype) == (np.int8, np.int64)
    for row in range(found.num_rows):
        reason, source = found.reasons[row], int(found.sources[row])
        assert (source >= 0) == (reason in (Reason.COPIED, Reason.SPECIAL))
        assert (reason == Reason.PADDING) == (row not in target.by_id)
        if source >= 0:
            assert source in base.by_id
            assert source < base_rows
            kind = target.by_id[row].kind
            is_special = kind is TokenKind.SPECIAL or (
                kind is TokenKind.ADDED and base.by_id[source].kind is TokenKind.SPECIAL
            )
            assert reason == (Reason.SPECIAL if is_special else Reason.COPIED)


@given(vocabularies(), st.data())
def test_permuting_the_base_permutes_the_sources(base: Vocabulary, data: st.DataObject) -> None:
    """Where no two tokens have the same bytes, the choice does not depend on ids."""
    distinct = list({t.bytes: t for t in base if t.kind is not TokenKind.SPECIAL}.values())
    ids = data.draw(st.permutations(range(len(distinct))))
    moved = Vocabulary(tuple(sorted(t._replace(id=i) for t, i in zip(distinct, ids, strict=True))))
    if not distinct:
        return
    target = Vocabulary(tuple(sorted(distinct)))
    sources = match(moved, target).sources
    for t, i in zip(distinct, ids, strict=True):
        assert sources[t.id] == i


@given(vocabularies())
def test_any_vocabulary_of_distinct_tokens_is_identical_to_itself(base: Vocabulary) -> None:
    distinct = {(t.bytes, t.kind): t for t in base if t.kind is not TokenKind.SPECIAL}
    tokens = tuple(sorted(distinct.values()))
    if tokens:
        assert match(Vocabulary(tokens), Vocabulary(tokens)).is_identity


# --- equal bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        (token(0, b"a", TokenKind.BYTE, "<0x61>"), 1),
        (token(0, b"a", TokenKind.ADDED, "a"), 4),
        (token(0, b"a", TokenKind.ORDINARY, "a"), 4),
        (token(0, b"a", TokenKind.ORDINARY, "x"), 1),
    ],
    ids=["byte that is produced", "added", "same spelling", "lowest id"],
)
def test_among_equal_bytes_the_same_spelling_comes_first(wanted: Token, source: int) -> None:
    base = vocabulary(
        token(1, b"a", spelling="y"),
        token(2, b"a", TokenKind.BYTE, "<0x61>"),
        token(3, b"a", spelling="z"),
        token(4, b"a", spelling="a"),
    )
    assert match(base, vocabulary(wanted)).sources.tolist() == [source]


@pytest.mark.parametrize("kind", [TokenKind.ORDINARY, TokenKind.BYTE, TokenKind.ADDED])
def test_an_added_token_is_produced_before_an_entry_of_the_same_text(kind: TokenKind) -> None:
    """CodeGen has GPT-2's entries of several spaces, and never produces them: it has added tokens for them."""
    base = vocabulary(token(1, b"  ", spelling="ĠĠ"), token(2, b"  ", TokenKind.ADDED, "  "))
    assert match(base, vocabulary(token(0, b"  ", kind, "ĠĠ"))).sources.tolist() == [2]
    assert match(base, base).is_identity


def test_an_added_token_gets_the_row_of_a_special_one_of_the_same_string() -> None:
    """Fine-tuned models often have their markers as added tokens that are not special."""
    marker = token(1, b"<|im_end|>", TokenKind.ADDED)
    base = vocabulary(special(5, "<|im_end|>"), token(6, b"<"), eos=5)
    target = vocabulary(special(0, "<eos>"), marker, eos=0)
    found = match(base, target)
    assert found.sources.tolist() == [5, 5]
    assert found.reasons.tolist() == [Reason.SPECIAL, Reason.SPECIAL]


def test_a_tag_does_not_get_the_row_of_a_role_that_another_token_has() -> None:
    """Gemma's `</s>` is the HTML tag."""
    tag = token(1, b"</s>", TokenKind.ADDED)
    base = vocabulary(special(2, "</s>"), eos=2)
    assert match(base, vocabulary(special(0, "<eos>"), tag, eos=0)).sources.tolist() == [2, -1]
    assert match(base, vocabulary(tag, eos=1)).sources.tolist() == [-1, 2]


def test_a_pad_token_that_stands_for_text_is_text() -> None:
    """Some tokenizers pad with `!`. In a text it still stands for itself."""
    definition = plain_definition(["!", "a", "<pad>"])
    padded = Vocabulary.from_definition(definition, {"pad": "!"})
    usual = Vocabulary.from_definition(definition, {"pad": "<pad>"})
    assert [t.kind for t in padded][:2] == [TokenKind.ORDINARY, TokenKind.ORDINARY]
    assert usual.by_spelling["<pad>"].kind is TokenKind.SPECIAL
    assert match(padded, usual).sources.tolist() == [0, 1, 2]
    assert match(usual, padded).sources.tolist()[:2] == [0, 1]
    # A copy of the row of `!` as pad would be predicted half of the time instead of `!`.
    other = vocabulary(token(0, b"!"), special(1, "<unused>"), pad=1)
    assert match(padded, other).sources.tolist() == [0, -1]


def test_a_byte_token_that_is_produced_gets_the_row_of_a_token_that_is_produced() -> None:
    """Mistral writes a line end as <0x0A>. Gemma has a token for it, and a <0x0A> that no text ever contained."""
    fallback = token(0, b"\n", TokenKind.BYTE, "<0x0A>")
    base = vocabulary(token(1, b"\n", TokenKind.BYTE, "<0x0A>"), token(2, b"\n", spelling="\n"))
    assert match(base, vocabulary(fallback)).sources.tolist() == [2]
    # Where the target has both, each gets its like; and where the base has only the byte, that is produced.
    assert match(base, vocabulary(fallback, token(1, b"\n", spelling="\n"))).sources.tolist() == [1, 2]
    assert match(vocabulary(base.tokens[0]), vocabulary(fallback)).sources.tolist() == [1]


def test_an_ordinary_token_does_not_get_the_row_of_a_special_one() -> None:
    found = match(vocabulary(special(0, "<s>")), vocabulary(token(0, b"<s>")))
    assert found.reasons.tolist() == [Reason.NEW]


def test_a_subset_of_the_base_is_not_the_identity() -> None:
    base = vocabulary(token(0, b"a"), token(1, b"b"))
    assert not match(base, vocabulary(token(0, b"a"))).is_identity
    assert not match(vocabulary(token(0, b"a")), base).is_identity


def test_swapped_ids_are_not_the_identity() -> None:
    found = match(vocabulary(token(0, b"a"), token(1, b"b")), vocabulary(token(0, b"b"), token(1, b"a")))
    assert found.sources.tolist() == [1, 0]
    assert not found.is_identity


# --- special tokens ------------------------------------------------------------------------------


def test_special_tokens_match_by_string_before_role() -> None:
    base = vocabulary(special(0, "<s>"), special(1, "</s>"), special(2, "<eos>"), bos=0, eos=1)
    target = vocabulary(special(0, "<eos>"), special(1, "<bos>"), special(2, "<pad>"), eos=0, bos=1, pad=2)
    found = match(base, target)
    assert found.sources.tolist() == [2, 0, -1]
    assert found.reasons.tolist() == [Reason.SPECIAL, Reason.SPECIAL, Reason.NEW]


def test_a_string_that_is_text_in_the_base_gives_way_to_a_role() -> None:
    """Gemma's `<s>` and `</s>` are HTML tags: with their rows in place of bos and eos no text makes sense to it."""
    tags = [token(n, tag.encode(), TokenKind.ADDED, tag) for n, tag in ((2, "<s>"), (3, "</s>"), (4, "<b>"))]
    base = vocabulary(special(0, "<bos>"), special(1, "<eos>"), *tags, bos=0, eos=1)
    target = vocabulary(special(0, "<s>"), special(1, "</s>"), special(2, "<b>"), bos=0, eos=1)
    assert match(base, target).sources.tolist() == [0, 1, 4]


def test_a_token_with_several_roles_is_the_end_of_text_first() -> None:
    base = vocabulary(special(0, "<s>"), special(1, "</s>"), special(2, "<pad>"), bos=0, eos=1, pad=2)
    target = vocabulary(special(0, "<|endoftext|>"), bos=0, eos=0, pad=0)
    assert match(base, target).sources.tolist() == [1]


def test_one_base_token_can_serve_several_roles() -> None:
    base = vocabulary(special(0, "<|endoftext|>"), bos=0, eos=0)
    target = vocabulary(special(0, "<s>"), special(1, "</s>"), bos=0, eos=1)
    assert match(base, target).sources.tolist() == [0, 0]


def test_a_missing_role_is_nobodys_row() -> None:
    """Never id 0."""
    found = match(vocabulary(special(0, "<s>"), bos=0), vocabulary(special(0, "<pad>"), pad=0))
    assert (found.sources.tolist(), found.reasons.tolist()) == ([-1], [Reason.NEW])


def test_of_equal_strings_a_special_base_token_comes_before_an_ordinary_one() -> None:
    base = vocabulary(token(0, b"<s>", spelling="<s>"), special(5, "<s>"))
    assert match(base, vocabulary(special(0, "<s>"))).sources.tolist() == [5]


def test_specials_beyond_the_rows_are_not_used() -> None:
    base = vocabulary(token(0, b"a"), special(9, "<s>"), bos=9)
    target = vocabulary(special(0, "<s>"), special(1, "<bos>"), bos=1)
    assert match(base, target, base_rows=9).sources.tolist() == [-1, -1]


def test_zoo_roles_find_each_other(zoo: Mapping[str, TokenizerFiles]) -> None:
    llama, gemma = zoo["sentencepiece-bpe"].vocabulary, zoo["gemma-style"].vocabulary
    found = match(llama, gemma)
    for role in ("bos", "eos", "unk", "pad"):
        assert found.sources[gemma.roles[role]] == llama.roles[role]
    assert found.reasons[gemma.by_spelling["<start_of_turn>"].id] == Reason.NEW


# --- token_map -----------------------------------------------------------------------------------

MAPPED_BASE = vocabulary(token(0, b"a"), token(1, b"b"), special(2, "<|im_end|>"), eos=2)
MAPPED_TARGET = vocabulary(
    token(0, b"a"), special(1, "<end>"), special(2, "<user>"), token(3, b"<t>", TokenKind.ADDED, "<t>"), eos=1
)


def test_the_map_gives_a_target_token_the_row_of_a_base_token() -> None:
    found = match(MAPPED_BASE, MAPPED_TARGET, token_map={"b": "<end>", "<|im_end|>": "<t>"})
    assert found.sources.tolist() == [0, 1, -1, 2]
    assert found.reasons.tolist() == [Reason.COPIED, Reason.SPECIAL, Reason.NEW, Reason.SPECIAL]
    assert not found.texts


def test_the_map_makes_a_target_token_from_a_text() -> None:
    found = match(MAPPED_BASE, MAPPED_TARGET, token_map={"<user>": "ab", "<end>": "b a"})
    assert found.texts == {1: "b a", 2: "ab"}
    assert found.sources.tolist() == [0, -1, -1, -1]
    assert found.reasons[1] == found.reasons[2] == Reason.SPECIAL


def test_a_token_of_both_can_be_mapped_to_one_of_the_target() -> None:
    """``OLD: NEW`` is tried first: <end> is in both."""
    base = vocabulary(special(0, "<end>"), token(1, b"a"))
    assert read_token_map({"<end>": "<user>"}, base, MAPPED_TARGET) == ({2: 0}, {})


def test_an_identity_with_a_changed_token_is_none() -> None:
    both = vocabulary(token(0, b"a"), special(1, "<s>"), special(2, "</s>"))
    assert match(both, both).is_identity
    assert not match(both, both, token_map={"<s>": "</s>"}).is_identity
    assert not match(both, both, token_map={"<s>": "some text"}).is_identity


@pytest.mark.parametrize(
    "wrong",
    [{"nothing": "nobody"}, {"a": "a"}, {"<end>": ""}, {"nothing": "<nobody>"}, {"a": "text"}],
    ids=["neither", "ordinary target", "empty text", "unknown", "text for an ordinary token"],
)
def test_a_wrong_pair_names_itself_and_both_forms(wrong: dict[str, str]) -> None:
    ((left, right),) = wrong.items()
    with pytest.raises(TokenAdaptError, match=f"token_map: '{left}': '{right}' fits neither form") as caught:
        match(MAPPED_BASE, MAPPED_TARGET, token_map=wrong)
    assert f"the base has no token '{left}'" in str(caught.value) or f"or added token '{right}'" in str(caught.value)
    assert "OLD: NEW" in str(caught.value)
    assert "NEW: text" in str(caught.value)


@pytest.mark.parametrize("base_rows", [5, 9], ids=["far beyond the rows", "the first without a row"])
def test_a_mapped_base_token_without_a_row_is_refused(base_rows: int) -> None:
    """There is nothing to copy: without an error here, applying the plan fails after everything else."""
    base = vocabulary(token(0, b"a"), special(9, "<old>"))
    with pytest.raises(TokenAdaptError, match="<old>"):
        match(base, MAPPED_TARGET, base_rows=base_rows, token_map={"<old>": "<user>"})


def test_a_mapped_base_token_with_the_last_row_is_copied() -> None:
    base = vocabulary(token(0, b"a"), special(9, "<old>"))
    assert 9 in match(base, MAPPED_TARGET, base_rows=10, token_map={"<old>": "<user>"}).sources


# --- rows ----------------------------------------------------------------------------------------


def test_rows_without_a_token_are_padding() -> None:
    target = vocabulary(token(1, b"a"), token(4, b"b"))
    found = match(vocabulary(token(0, b"a")), target, num_rows=7)
    assert found.num_rows == 7
    assert found.ids(Reason.PADDING).tolist() == [0, 2, 3, 5, 6]
    assert found.ids(Reason.COPIED).tolist() == [1]
    assert found.ids(Reason.NEW).tolist() == [4]
    assert found.counts() == {"copied": 1, "special": 0, "new": 1, "padding": 5}


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_too_few_rows_are_refused(rows: int) -> None:
    with pytest.raises(TokenAdaptError, match=f"rows: {rows} is too few.*highest token id is 4.*at least 5"):
        match(vocabulary(token(0, b"a")), vocabulary(token(4, b"b")), num_rows=rows)


def test_base_tokens_without_a_row_are_not_used() -> None:
    base = vocabulary(token(0, b"a"), token(5, b"b"), token(6, b"b", TokenKind.ADDED))
    target = vocabulary(token(0, b"a"), token(1, b"b"))
    assert match(base, target).sources.tolist() == [0, 6]
    assert match(base, target, base_rows=6).sources.tolist() == [0, 5]
    assert match(base, target, base_rows=5).sources.tolist() == [0, -1]
    assert not match(base, base, base_rows=6).is_identity


def test_gaps_of_the_base_are_never_a_source(zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo["byte-level"]
    spread = tokenizers_zoo.renumbered(dict(base.definition), lambda i: 2 * i)
    found = match(Vocabulary.from_definition(spread, base.role_tokens), base.vocabulary)
    assert found.sources.tolist() == [2 * i for i in range(base.vocabulary.num_ids)]


def test_definitions_and_hand_made_vocabularies_agree() -> None:
    definition: dict[str, Any] = plain_definition(["a", "Ġb"], [added("<s>", 2)], decoder=BYTE_LEVEL)
    read = Vocabulary.from_definition(definition)
    assert read == vocabulary(token(0, b"a"), token(1, b" b", spelling="Ġb"), special(2, "<s>"))
