"""Training in two phases: words, then merges across their boundaries."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning_texts import QUIET, TEXT, new_ids, plain

from mergekit_tokenadapt.supertokens import continuing
from mergekit_tokenadapt.supertokens.options import GB, Limits
from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import Crossing, Rules, crossed
from mergekit_tokenadapt.supertokens.superwords import train_superwords
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@given(text=TEXT)
def test_round_trip_of_any_text(trained, text):
    tokenizer = plain(trained)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(content=st.binary(max_size=40))
def test_round_trip_of_any_bytes(trained, content):
    """Bytes that are not UTF-8 become U+FFFD before a tokenizer sees them; nothing else is lost."""
    text = content.decode("utf-8", "replace")
    tokenizer = plain(trained)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_trained_tokens_are_there_reachable_and_safe(trained):
    vocabulary = Vocabulary.from_definition(trained)
    assert len(vocabulary) == vocabulary.num_ids == 1200
    assert vocabulary.by_id[0].spelling == "<end>"
    assert unreachable(trained, vocabulary) == []
    texts = {t.text for t in vocabulary if t.text}
    assert " of the" in texts
    assert any(len(t.split()) == 3 for t in texts)
    assert not [t for t in texts if t != "<end>" and crossed(t)]
    assert max(len(t.split()) for t in texts) <= 4


def test_supertokens_save_tokens(trained, corpus):
    words = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"], word_share=1)
    text = "".join(corpus.pieces())
    assert len(new_ids(trained, text)) < 0.95 * len(new_ids(words, text))


def test_words_alone_are_plain_bpe(corpus):
    words = train_superwords(corpus, 500, rules=Rules(), limits=QUIET, word_share=1)
    assert len(words["model"]["vocab"]) == 500
    assert not [t for t in Vocabulary.from_definition(words) if t.text and " " in t.text.strip()]


@pytest.mark.parametrize("crossing", list(Crossing))
def test_each_rule_can_be_lifted(crossing, corpus):
    rules = Rules(crossing=frozenset([crossing]))
    definition = train_superwords(corpus, 1200, rules=rules, limits=QUIET)
    vocabulary = Vocabulary.from_definition(definition)
    found = Counter(c for t in vocabulary if t.text for c in crossed(t.text))
    assert set(found) == {crossing}
    assert unreachable(definition, vocabulary) == []


def test_without_punctuation(corpus):
    definition = train_superwords(corpus, 1200, rules=Rules(punctuation=False), limits=QUIET)
    texts = [t.text.strip() for t in Vocabulary.from_definition(definition) if t.text]
    mixed = [t for t in texts if any(c.isalpha() for c in t) and any(c in ",.;:()_=" for c in t)]
    assert not mixed
    assert "of the" in texts


def test_little_memory_still_learns(corpus):
    limits = Limits(quiet=True, max_memory=200_000 / GB, words_from=100_000 / GB)
    definition = train_superwords(corpus, 700, rules=Rules(), limits=limits)
    texts = {t.text for t in Vocabulary.from_definition(definition)}
    assert " of the" in texts


@pytest.mark.parametrize("pairs_per_token", [0.2, 1])
def test_starting_with_what_is_frequent_changes_nothing(pairs_per_token, trained, corpus, monkeypatch):
    """Learning looks at frequent pairs first, and at rarer ones where these are not enough."""
    monkeypatch.setattr(continuing, "PAIRS_PER_TOKEN", 10**6)
    everything = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    monkeypatch.setattr(continuing, "PAIRS_PER_TOKEN", pairs_per_token)
    again = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    assert again == everything == trained
