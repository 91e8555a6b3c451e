"""Passages that teach copying are made of new tokens, each line twice, and are a given share of the text."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mergekit_tokenadapt.healing.belonging import matched, open_base
from mergekit_tokenadapt.healing.copying import FEWEST, MOST, new_words, with_copies
from mergekit_tokenadapt.models.folder import open_model

WORDS = ["alpha", "北", "def", "x y"]
PASSAGES = st.lists(st.text(min_size=1, max_size=300).filter(lambda text: text not in WORDS), max_size=12)


@given(PASSAGES, st.floats(0.01, 1), st.integers(0, 9))
def test_the_share_is_kept_and_the_text_too(passages, share, seed):
    mixed = with_copies(passages, WORDS, share, seed)
    rest = iter(mixed)
    assert all(any(passage == one for one in rest) for passage in passages)  # in their order
    made = sum(len(one.encode()) for one in mixed) - sum(len(one.encode()) for one in passages)
    longest = 2 * (MOST * len("alpha | ") + 1)
    assert 0 <= made <= share * sum(len(one.encode()) for one in passages) + longest
    assert bool(made) == bool(passages)
    assert mixed == with_copies(passages, WORDS, share, seed)


def test_each_line_is_there_twice():
    made = with_copies(["p" * 5000], WORDS, 1.0, 0)[1:]
    for passage in made:
        half = len(passage) // 2
        assert passage[:half] == passage[half:]
        assert passage[half - 1] == "\n"
        found = sum(passage[:half].count(word) for word in WORDS)
        assert FEWEST <= found <= MOST
    assert len(set(made)) > 1
    assert any(a != b for a, b in itertools.pairwise(made))


@given(PASSAGES, st.integers(0, 60))
def test_lines_are_shortened_to_what_the_models_can_read(passages, most):
    mixed = with_copies(passages, WORDS, 1.0, 0, most)
    made = list(mixed)
    for passage in passages:
        made.remove(passage)
    assert all(len(one.encode()) <= most for one in made)
    assert all(one[: len(one) // 2] == one[len(one) // 2 :] for one in made)
    assert bool(made) == (bool(passages) and most >= 2 * len("def\n"))


def test_nothing_is_added_without_words_or_without_a_share():
    assert with_copies(["one", "two"], [], 0.5, 0) == ["one", "two"]
    assert with_copies(["one", "two"], WORDS, 0, 0) == ["one", "two"]


def test_words_are_those_whose_rows_were_not_copied(pair):
    model = open_model(str(pair[1]))
    mapping = matched(model, open_base(model, None))
    vocabulary = model.tokenizer.vocabulary
    new = [t.bytes for t in vocabulary if mapping.sources[t.id] < 0 and t.kind.value != "special"]
    expected = [content.decode("utf-8", errors="replace").strip() for content in new]
    assert new_words(vocabulary, mapping) == [w for w in expected if w and "\n" not in w and "\ufffd" not in w]
    assert len(new) < len(vocabulary.tokens)
