"""Training on chunks of random length."""

from collections import Counter

import pytest
from learning_texts import QUIET, new_ids, plain
from sentences import SENTENCES
from tokenizers_zoo import CORPUS

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.chunk_lengths import ChunkLengths
from mergekit_tokenadapt.supertokens.chunks import chunked, train_chunks
from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import Rules, crossed
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


def test_chunks(corpus):
    definition = train_chunks(corpus, 700, rules=Rules(), limits=QUIET, seed=1)
    other = train_chunks(corpus, 700, rules=Rules(), limits=QUIET, seed=2)
    assert definition["model"]["vocab"] != other["model"]["vocab"]
    vocabulary = Vocabulary.from_definition(definition)
    assert len(vocabulary) == vocabulary.num_ids == 700
    assert unreachable(definition, vocabulary) == []
    texts = [t.text for t in vocabulary if t.text]
    assert [t for t in texts if " " in t.strip()]
    assert not [t for t in texts if crossed(t)]
    for text in (*SENTENCES, *CORPUS):
        assert plain(definition).decode(new_ids(definition, text)) == text


def test_chunk_lengths_follow_their_distribution():
    lengths = ChunkLengths({2: 0.25, 5: 0.75})
    text = "abcdefghij" * 4000
    (marked,) = chunked([text], lengths, seed=0)
    chunks = marked.split("\ufdd0")
    assert "".join(chunks) == text
    found = Counter(map(len, chunks[:-1]))
    assert set(found) == {2, 5}
    assert found[5] / found.total() == pytest.approx(0.75, abs=0.02)
    assert sum(ChunkLengths().distribution.values()) == pytest.approx(1)
    assert sorted(ChunkLengths().distribution) == list(range(4, 24))


def test_the_papers_distribution_is_refused():
    with pytest.raises(TokenAdaptError, match=r"add up to 1\.1000; they have to add to 1"):
        ChunkLengths({4: 0.5, 5: 0.6})
    with pytest.raises(TokenAdaptError, match="whole numbers from 1"):
        ChunkLengths({0: 1.0})
