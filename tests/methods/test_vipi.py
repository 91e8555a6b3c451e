"""The method `vipi` against a slow, plain version that lists all segmentations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, make_transfer, plain_definition

from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.minimal_segmentations import MinimalSegmentations
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary


def all_segmentations(content: bytes, pieces: Mapping[bytes, int]) -> list[list[int]]:
    """Every way to write the content in pieces, as their ids."""
    if not content:
        return [[]]
    found = []
    for end in range(1, len(content) + 1):
        if content[:end] in pieces:
            found += [[pieces[content[:end]], *rest] for rest in all_segmentations(content[end:], pieces)]
    return found


def plain_vipi(content: bytes, pieces: Mapping[bytes, int]) -> dict[int, float]:
    """The mean, over the chosen segmentations, of the mean over their pieces, as weights."""
    length = {i: len(piece) for piece, i in pieces.items()}
    every = all_segmentations(content, pieces)
    if not every:
        return {}
    fewest = min(map(len, every))
    short = [ids for ids in every if len(ids) == fewest]
    longest = max(length[i] for ids in short for i in ids)
    chosen = [ids for ids in short if max(length[i] for i in ids) == longest]
    weights: Counter[int] = Counter()
    for ids in chosen:
        for i in ids:
            weights[i] += 1 / (len(ids) * len(chosen))
    return dict(weights)


def vocabulary_of(words: list[str]) -> Vocabulary:
    return Vocabulary.from_definition(plain_definition(words, decoder=BYTE_LEVEL))


@given(
    st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=12, unique=True),
    st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=4),
)
def test_shares_are_those_of_all_minimal_segmentations(words: list[str], texts: list[str]) -> None:
    vocabulary = vocabulary_of(words)
    segmentations = MinimalSegmentations(vocabulary, vocabulary.num_ids)
    pieces = {token.bytes: token.id for token in vocabulary}
    for text in texts:
        assert segmentations.shares(text.encode()) == pytest.approx(plain_vipi(text.encode(), pieces))


def test_a_worked_example() -> None:
    """ "abcd" is "ab" + "cd" or "abc" + "d" or "a" + "bcd"; the last two have the longest piece."""
    vocabulary = vocabulary_of(["a", "b", "c", "d", "ab", "cd", "abc", "bcd"])
    found = MinimalSegmentations(vocabulary, vocabulary.num_ids).shares(b"abcd")
    assert {vocabulary.by_id[i].spelling: share for i, share in found.items()} == {
        "abc": 0.25,
        "d": 0.25,
        "a": 0.25,
        "bcd": 0.25,
    }


def test_long_repetitions_are_counted_exactly() -> None:
    """300 times "a" in pieces of up to 7: 43 pieces, in more ways than a float could count one by one."""
    vocabulary = vocabulary_of(["a" * n for n in range(1, 8)])
    shares = MinimalSegmentations(vocabulary, vocabulary.num_ids).shares(b"a" * 300)
    assert sum(shares.values()) == pytest.approx(1)
    # 43 pieces with 301 places: one is 1 shorter than the longest piece.
    assert shares == pytest.approx({5: 1 / 43, 6: 42 / 43})


def test_tokens_without_a_row_are_no_pieces() -> None:
    vocabulary = vocabulary_of(["a", "b", "ab"])
    assert MinimalSegmentations(vocabulary, 2).shares(b"ab") == {0: 0.5, 1: 0.5}
    assert MinimalSegmentations(vocabulary, 1).shares(b"ab") == {}


@pytest.mark.parametrize(("base", "target"), [("sentencepiece-bpe", "byte-level"), ("wordpiece", "unigram")])
def test_vipi_weighs_the_pieces_of_these(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo[base], zoo[target])
    made = find_method("vipi", {}).weigh(transfer)
    old = transfer.base.vocabulary
    pieces = {t.bytes: t.id for t in old if t.kind is not TokenKind.SPECIAL and t.id not in old.byte_twins and t.bytes}
    checked = 0
    for n, token in enumerate(transfer.new_tokens):
        if len(token.bytes) > 12:  # the plain version takes exponential time
            continue
        row = {old.by_id[i].bytes: weight for i, weight in made.row(n)}
        expected = {old.by_id[i].bytes: weight for i, weight in plain_vipi(token.bytes, pieces).items()}
        assert row == pytest.approx(expected, abs=1e-6), token
        checked += len(expected) > 1
    assert checked > 10


def test_the_order_of_ids_does_not_matter() -> None:
    words = ["a", "b", "c", "ab", "bc", "abc"]
    texts = [b"abcab", b"bcabc", b"aabbcc"]
    found = []
    for order in (words, words[::-1]):
        vocabulary = vocabulary_of(order)
        segmentations = MinimalSegmentations(vocabulary, vocabulary.num_ids)
        found.append(
            [{vocabulary.by_id[i].spelling: share for i, share in segmentations.shares(t).items()} for t in texts]
        )
    assert found[0] == found[1]
