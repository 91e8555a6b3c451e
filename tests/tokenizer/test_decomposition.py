"""Old tokens split into smaller old tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import tokenizers_zoo
from tokenizers import models
from tokenizers_zoo import METASPACE, added, plain_definition

from mergekit_tokenadapt.tokenizer.decomposition import Decomposer
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary

WANTED = (2, 3, 4, 6, 10, 50)


def decomposer_of(
    definition: Definition, vocabulary: Vocabulary | None = None, num_rows: int | None = None
) -> tuple[Decomposer, Vocabulary]:
    vocabulary = vocabulary or Vocabulary.from_definition(definition)
    return Decomposer(definition, vocabulary, num_rows or vocabulary.num_ids), vocabulary


def spelt(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    return [vocabulary.by_id[i].spelling for i in ids]


def segmentations(content: bytes, pieces: Mapping[bytes, float], longest: int) -> list[list[bytes]]:
    """All ways to split `content` into pieces of at most `longest` bytes."""
    if not content:
        return [[]]
    starts = (content[:n] for n in range(1, min(longest, len(content)) + 1))
    return [[s, *rest] for s in starts if s in pieces for rest in segmentations(content[len(s) :], pieces, longest)]


def usable_pieces(tokenizer: TokenizerFiles) -> dict[bytes, float]:
    """Bytes -> score (-1 for WordPiece) of ordinary tokens."""
    entries = tokenizer.definition["model"]["vocab"]
    scores = [score for _, score in entries] if isinstance(entries, list) else [-1.0] * len(entries)
    ordinary = [t for t in tokenizer.vocabulary if t.kind is TokenKind.ORDINARY]
    return {t.bytes: scores[t.id] for t in ordinary}


# --- every family --------------------------------------------------------------------------------


def test_the_pieces_of_every_split_make_up_the_token(tokenizer: TokenizerFiles) -> None:
    vocabulary = tokenizer.vocabulary
    decomposer, _ = decomposer_of(tokenizer.definition, vocabulary)
    checked = 0
    for token in vocabulary:
        for wanted in WANTED:
            found = decomposer.split(token, wanted)
            if found:
                assert b"".join(vocabulary.by_id[i].bytes for i in found) == token.bytes
                assert len(found) >= 2
                assert token.id not in found
                checked += 1
    assert checked > 500


def test_most_tokens_of_several_characters_can_be_split(tokenizer: TokenizerFiles) -> None:
    decomposer, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    several = [t for t in vocabulary if t.kind is TokenKind.ORDINARY and t.text and len(t.text) > 2]
    assert len(several) > 50
    assert sum(bool(decomposer.split(t, 2)) for t in several) > 0.8 * len(several)


def test_wanting_more_pieces_gives_at_least_as_many(tokenizer: TokenizerFiles) -> None:
    decomposer, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    numbers = {t.spelling: [len(decomposer.split(t, wanted)) for wanted in WANTED] for t in vocabulary}
    assert {spelling: n for spelling, n in numbers.items() if n != sorted(n)} == {}
    assert any(n[0] < n[-1] for n in numbers.values()), "and some do have more"


def test_a_token_can_be_split_for_some_number_of_pieces_if_it_can_for_any(tokenizer: TokenizerFiles) -> None:
    decomposer, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    for token in vocabulary:
        assert len({bool(decomposer.split(token, wanted)) for wanted in WANTED}) == 1, token


def test_special_tokens_are_never_pieces_and_never_split(tokenizer: TokenizerFiles) -> None:
    decomposer, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    special = set(vocabulary.ids(TokenKind.SPECIAL).tolist())
    ordinary = [t for t in vocabulary if t.id not in special]
    assert special
    assert not special & {i for t in ordinary for wanted in WANTED for i in decomposer.split(t, wanted)}


def test_tokens_without_a_row_are_never_pieces(tokenizer: TokenizerFiles) -> None:
    rows = tokenizer.vocabulary.num_ids - 60
    whole, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    decomposer, _ = decomposer_of(tokenizer.definition, tokenizer.vocabulary, rows)
    used = {i for t in vocabulary for wanted in WANTED for i in decomposer.split(t, wanted)}
    assert max(used) < rows
    assert max(i for t in vocabulary for i in whole.split(t, 2)) >= rows, "or there is nothing to leave out"


def test_tokens_of_one_byte_cannot_be_split(tokenizer: TokenizerFiles) -> None:
    decomposer, vocabulary = decomposer_of(tokenizer.definition, tokenizer.vocabulary)
    single = [t for t in vocabulary if len(t.bytes) == 1]
    assert single
    assert all(decomposer.split(t, wanted) == [] for t in single for wanted in WANTED)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece-bpe", "gemma-style", "wordpiece"])
def test_other_ids_give_the_same_pieces(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo[name]
    ids = tokenizers_zoo.permutation(base.vocabulary.num_ids, seed=4)
    moved = tokenizers_zoo.renumbered(dict(base.definition), ids.__getitem__)
    one, vocabulary = decomposer_of(base.definition, base.vocabulary)
    other, other_vocabulary = decomposer_of(moved, Vocabulary.from_definition(moved, base.role_tokens))
    for token in vocabulary:
        moved_token = other_vocabulary.by_id[ids[token.id]]
        for wanted in (2, 4):
            expected = spelt(vocabulary, one.split(token, wanted))
            assert spelt(other_vocabulary, other.split(moved_token, wanted)) == expected


def test_which_of_two_equal_tokens_is_a_piece_does_not_depend_on_their_ids() -> None:
    """BERT has ``!`` and ``##!``, both the same byte."""
    splits = set()
    for spellings in (["[UNK]", "!", "##!", "##a", "##a!"], ["[UNK]", "##!", "!", "##a", "##a!"]):
        definition = plain_definition(spellings, type="WordPiece", unk_token="[UNK]", continuing_subword_prefix="##")
        decomposer, vocabulary = decomposer_of(definition)
        splits.add(tuple(spelt(vocabulary, decomposer.split(vocabulary.by_spelling["##a!"], 2))))
    assert len(splits) == 1, splits


# --- BPE -----------------------------------------------------------------------------------------

LETTERS = ["a", "b", "c", "d", "ab", "cd", "abcd", "abc", "abcdab", "x"]
MERGES = [["a", "b"], ["c", "d"], ["ab", "cd"], ["ab", "c"], ["abcd", "ab"]]


@pytest.mark.parametrize("as_text", [True, False], ids=["merges as texts", "merges as pairs"])
@pytest.mark.parametrize(
    ("token", "wanted", "expected"),
    [
        ("abcd", 2, "ab cd"),
        ("abcd", 3, "ab c d"),
        ("abcd", 4, "a b c d"),
        ("abcd", 9, "a b c d"),
        ("abc", 2, "ab c"),
        ("abc", 3, "a b c"),
        ("abcdab", 2, "abcd ab"),
        ("abcdab", 3, "ab cd ab"),
        ("abcdab", 4, "ab c d ab"),
        ("abcdab", 6, "a b c d a b"),
        ("ab", 1, "a b"),
        ("ab", 0, "a b"),
        ("x", 2, ""),
    ],
)
def test_merges_are_undone_latest_first(token: str, wanted: int, expected: str, as_text: bool) -> None:
    merges = [" ".join(merge) for merge in MERGES] if as_text else MERGES
    decomposer, vocabulary = decomposer_of(plain_definition(LETTERS, merges=merges))
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling[token], wanted)) == expected.split()


@pytest.mark.parametrize("token", ["abcd", "abc", "abcdab", "ab"])
def test_a_tokenizer_with_the_earlier_merges_only_would_split_the_same(token: str) -> None:
    decomposer, vocabulary = decomposer_of(plain_definition(LETTERS, merges=MERGES))
    checked = 0
    for earlier in range(len(MERGES)):
        truncated = models.BPE(vocab={s: i for i, s in enumerate(LETTERS)}, merges=[*map(tuple, MERGES[:earlier])])
        expected = [t.id for t in truncated.tokenize(token)]
        if len(expected) > 1:
            assert decomposer.split(vocabulary.by_spelling[token], len(expected)) == expected
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece-bpe"])
def test_trained_tokenizers_with_fewer_merges_would_split_the_same(
    name: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    model = zoo[name].definition["model"]
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    decomposer, vocabulary = decomposer_of(zoo[name].definition, zoo[name].vocabulary)

    def tokenizer_of(number: int) -> models.BPE:
        return models.BPE(vocab=model["vocab"], merges=merges[:number])

    whole = tokenizer_of(len(merges))
    ordinary = [t for t in vocabulary if t.kind is TokenKind.ORDINARY]
    reachable = [t for t in ordinary if [p.id for p in whole.tokenize(t.spelling)] == [t.id]]
    checked = 0
    for number in range(0, len(merges), 25):
        truncated = tokenizer_of(number)
        for token in reachable:
            expected = [p.id for p in truncated.tokenize(token.spelling)]
            if len(expected) > 1:
                assert decomposer.split(token, len(expected)) == expected, (token, number)
                checked += 1
    assert checked > 200


def test_of_two_merges_to_one_token_the_first_is_undone() -> None:
    definition = plain_definition(["a", "b", "c", "ab", "bc", "abc"], merges=["a b", "b c", "a bc", "ab c"])
    decomposer, vocabulary = decomposer_of(definition)
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling["abc"], 2)) == ["a", "bc"]


def test_without_merges_nothing_is_split() -> None:
    decomposer, vocabulary = decomposer_of(plain_definition(["a", "b", "ab"]))
    assert [decomposer.split(t, 2) for t in vocabulary] == [[], [], []]


def test_a_merge_with_a_special_token_or_a_missing_one_is_not_undone() -> None:
    definition = plain_definition(
        ["a", "b", "<s>", "ab", "<s>a", "bq"], [added("<s>", 2)], merges=["a b", "<s> a", "b q"]
    )
    decomposer, vocabulary = decomposer_of(definition)
    assert [spelt(vocabulary, decomposer.split(t, 2)) for t in vocabulary] == [[], [], [], ["a", "b"], [], []]


# --- Unigram and WordPiece -----------------------------------------------------------------------


def longest_of(token: Token, wanted: int) -> int:
    """Pieces may be half as long again as pieces of equal lengths."""
    return max(1, min(len(token.bytes) - 1, math.ceil(1.5 * len(token.bytes) / wanted)))


@pytest.mark.parametrize("name", ["unigram", "wordpiece"])
@pytest.mark.parametrize("wanted", [2, 3])
def test_the_segmentation_is_the_best_of_all(name: str, wanted: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    decomposer, vocabulary = decomposer_of(zoo[name].definition, zoo[name].vocabulary)
    pieces = usable_pieces(zoo[name])
    checked = choices = 0
    for token in vocabulary:
        if token.kind is TokenKind.ORDINARY and 2 <= len(token.bytes) <= 10:
            all_ways = segmentations(token.bytes, pieces, longest_of(token, wanted))
            if all_ways:
                found = [pieces[vocabulary.by_id[i].bytes] for i in decomposer.split(token, wanted)]
                best = max(sum(pieces[p] for p in way) for way in all_ways)
                assert sum(found) == pytest.approx(best), token
                checked, choices = checked + 1, choices + (len(all_ways) > 2)
    assert checked > 50
    assert choices > 10


def unigram_definition(scores: Mapping[str, float], **model: object) -> Definition:
    vocab = [["<unk>", 0.0], *([piece, score] for piece, score in scores.items())]
    definition = plain_definition([], [added("<unk>", 0)], decoder=METASPACE, pre_tokenizer=METASPACE)
    return definition | {"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False, **model}}


def test_the_scores_decide_between_segmentations() -> None:
    scores = {"abc": -1.0, "ab": -5.0, "c": -5.0, "a": -2.0, "bc": -2.0, "b": -9.0}
    decomposer, vocabulary = decomposer_of(unigram_definition(scores))
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling["abc"], 2)) == ["a", "bc"]
    decomposer, vocabulary = decomposer_of(unigram_definition(scores | {"bc": -20.0}))
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling["abc"], 2)) == ["ab", "c"]
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling["abc"], 5)) == ["a", "b", "c"]


def test_a_segmentation_uses_no_special_token() -> None:
    decomposer, vocabulary = decomposer_of(unigram_definition({"x": -1.0, "x<unk>": -2.0, "xx": -2.0}))
    assert decomposer.split(vocabulary.by_spelling["x<unk>"], 2) == []
    assert spelt(vocabulary, decomposer.split(vocabulary.by_spelling["xx"], 2)) == ["x", "x"]


def test_byte_tokens_are_pieces_only_where_no_other_token_is() -> None:
    """SentencePiece gives byte tokens the score 0, better than any; its model never takes them for text it knows."""
    scores = {"cat": -3.0, "ca": -4.0, "c": -5.0, "a": -5.0, "t": -5.0, "é": -6.0, "caé": -7.0, "caø": -7.0}
    bytes_ = dict.fromkeys(tokenizers_zoo.BYTE_TOKENS, 0.0)
    decomposer, vocabulary = decomposer_of(unigram_definition(scores | bytes_, byte_fallback=True))
    assert vocabulary.by_spelling["<0x61>"].kind is TokenKind.BYTE
    expected = {"cat": ["ca", "t"], "caé": ["ca", "é"], "caø": ["ca", "<0xC3>", "<0xB8>"]}
    splits = {text: spelt(vocabulary, decomposer.split(vocabulary.by_spelling[text], 2)) for text in expected}
    assert splits == expected


def test_where_pieces_cannot_be_as_short_as_wanted_they_are_as_short_as_they_can_be() -> None:
    """Characters of three bytes: split into 12, there is nothing of two bytes or less."""
    scores = {
        "一二三四": -1.0,
        "一二三": -2.0,
        "一二": -2.5,
        "三四": -2.5,
        "一": -3.0,
        "二": -3.0,
        "三": -3.0,
        "四": -3.0,
    }
    decomposer, vocabulary = decomposer_of(unigram_definition(scores))
    token = vocabulary.by_spelling["一二三四"]
    assert [len(decomposer.split(token, wanted)) for wanted in (2, 4, 12)] == [2, 4, 4]


def test_a_wordpiece_token_is_split_into_its_start_and_continuations() -> None:
    vocabulary = ["[UNK]", "stones", "stone", "##s", "s", "##tones", "##t", "##o", "##n", "##e", "##one"]
    definition = plain_definition(vocabulary, type="WordPiece", unk_token="[UNK]", continuing_subword_prefix="##")
    del definition["model"]["merges"]
    decomposer, made = decomposer_of(definition)
    assert spelt(made, decomposer.split(made.by_spelling["stone"], 2)) == ["s", "##t", "##one"]
    assert spelt(made, decomposer.split(made.by_spelling["stones"], 2)) in (["stone", "##s"], ["s", "##tones"])
    assert spelt(made, decomposer.split(made.by_spelling["stones"], 7)) == ["s", "##t", "##o", "##n", "##e", "##s"]
    assert decomposer.split(made.by_spelling["s"], 2) == [], "no token is the space alone"


def test_merges_of_entries_that_continue_a_word_are_undone() -> None:
    """The merge of ``sto`` and ``##ne`` is ``stone``: the sign goes."""
    decomposer, made = decomposer_of(tokenizers_zoo.continued_bpe()[0])
    found = {t: decomposer.split(t, 2) for t in made if t.kind is TokenKind.ORDINARY and len(t.bytes) > 3}
    assert sum(map(bool, found.values())) > 0.8 * len(found)
    for token, pieces in found.items():
        assert not pieces or b"".join(made.by_id[i].bytes for i in pieces) == token.bytes
