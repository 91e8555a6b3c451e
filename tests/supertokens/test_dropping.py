"""Tokens added in the place of others."""

import pytest
from learning_texts import QUIET, plain
from sentences import SENTENCES
from tokenizers_zoo import CORPUS

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary


def test_a_part_of_the_corpus_may_have_no_text(zoo, corpus, monkeypatch):
    """A block of a Ray dataset whose rows are all null, for instance."""
    original = Corpus.counted

    def with_empty_part(self, count, watch=iter):
        yield count([])
        yield from original(self, count, watch)

    base = zoo["byte-level"]
    plain_result = extend(base, corpus, 20, Rules(), QUIET, drop=True)
    monkeypatch.setattr(Corpus, "counted", with_empty_part)
    assert extend(base, corpus, 20, Rules(), QUIET, drop=True).definition == plain_result.definition


def test_dropping_keeps_the_size_and_what_is_needed(zoo, corpus):
    for family in ("byte-level", "sentencepiece-bpe", "gemma-style"):
        base = zoo[family]
        extension = extend(base, corpus, 60, Rules(), QUIET, drop=True)
        vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
        assert len(vocabulary) == len(base.vocabulary)
        assert vocabulary.num_ids == base.vocabulary.num_ids
        assert sorted(t.id for t in extension.dropped) == list(extension.added)
        assert all(t.kind is TokenKind.ORDINARY for t in extension.dropped)
        known = set(extension.definition["model"]["vocab"])
        assert all({x, y, x + y} <= known for x, y in merges_of(extension.definition))
        kept = [t for t in vocabulary if t.id not in set(extension.added)]
        assert all(base.vocabulary.by_id[t.id] == t for t in kept)
        lost_before = {t.id for t in unreachable(base.definition, base.vocabulary)}
        assert {t.id for t in unreachable(extension.definition, vocabulary)} <= lost_before
        for text in (*SENTENCES, *CORPUS):
            old, new = plain(base.definition), plain(extension.definition)
            assert new.decode(new.encode(text).ids) == old.decode(old.encode(text).ids)


def test_more_than_can_be_dropped_is_refused(zoo, corpus, monkeypatch):
    base = zoo["byte-level"]
    made = len({x + y for x, y in merges_of(base.definition)})
    with pytest.raises(TokenAdaptError, match=r"tokens are to be dropped, but only \d+ can be"):
        extend(base, corpus, made, Rules(), QUIET, drop=True)
    monkeypatch.setattr(Corpus, "pieces", lambda *_: pytest.fail("the text was read"))
    with pytest.raises(TokenAdaptError, match=rf"{made + 1} tokens are to be dropped, but only {made} can be"):
        extend(base, corpus, made + 1, Rules(), QUIET, drop=True)
