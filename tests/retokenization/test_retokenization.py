"""The same bytes in other tokens: split at random, merged for a batch."""

import json
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import CORPUS, LOSSLESS

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.retokenization.dynamic import input_rows, merge_frequent_pairs
from mergekit_tokenadapt.retokenization.stochastic import StochasticSplitter
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig


def content(vocabulary, ids):
    return b"".join(vocabulary.by_id[i].bytes for i in ids)


@given(
    text=st.one_of(st.sampled_from(CORPUS), st.text(max_size=40)),
    family=st.sampled_from(LOSSLESS),
    share=st.floats(0, 3),
    seed=st.integers(0, 5),
)
def test_the_text_stays(zoo, text, family, share, seed):
    vocabulary, encoder = zoo[family].vocabulary, zoo[family].fast_tokenizer()
    ids = encoder.encode(text, add_special_tokens=False).ids
    splitter = StochasticSplitter(vocabulary, share, seed)
    split = splitter.split(ids)
    assert content(vocabulary, split) == content(vocabulary, ids)
    assert len(ids) <= len(split) <= len(ids) + round(share * len(ids))
    assert encoder.decode(split, skip_special_tokens=False) == encoder.decode(ids, skip_special_tokens=False)
    assert StochasticSplitter(vocabulary, share, seed).split(ids) == split


def test_pairs_are_all_pairs(zoo):
    vocabulary = zoo["byte-level"].vocabulary
    splitter = StochasticSplitter(vocabulary)
    ordinary = [t for t in vocabulary if t.kind is TokenKind.ORDINARY]
    for token in ordinary[::27]:
        expected = sorted((a.id, b.id) for a in ordinary for b in ordinary if a.bytes + b.bytes == token.bytes)
        assert sorted(splitter.pairs(token.id)) == expected
    assert splitter.pairs(vocabulary.roles["eos"]) == []


def test_splits_are_drawn_evenly(zoo):
    vocabulary = zoo["byte-level"].vocabulary
    splitter = StochasticSplitter(vocabulary)
    token = max(vocabulary.ids().tolist(), key=lambda i: len(splitter.pairs(i)))
    pairs = splitter.pairs(token)
    assert len(pairs) > 1
    drawn = Counter(tuple(StochasticSplitter(vocabulary, 1.0).split([token], n)) for n in range(1000))
    assert set(drawn) == set(pairs)
    assert min(drawn.values()) > 1000 / len(pairs) / 2


def test_a_datasets_map_does_not_depend_on_batches(zoo):
    encoder = zoo["gemma-style"].fast_tokenizer()
    ids = [encoder.encode(text, add_special_tokens=False).ids for text in CORPUS]
    masks, types = ([[value] * len(i) for i in ids] for value in (1, 0))
    columns = {"input_ids": ids, "attention_mask": masks, "token_type_ids": types, "labels": ids}
    dataset = Dataset.from_dict(columns)
    splitter = StochasticSplitter(zoo["gemma-style"].vocabulary, 0.5)
    small, large = (dataset.map(splitter, batched=True, with_indices=True, batch_size=n) for n in (3, 1000))
    assert small["input_ids"][:] == large["input_ids"][:]
    assert small["input_ids"][:] != ids
    assert small["labels"][:] == small["input_ids"][:]
    for column in ("attention_mask", "token_type_ids"):
        assert [len(m) for m in small[column]] == [len(i) for i in small["input_ids"]]


def test_columns_that_cannot_follow_are_refused(zoo):
    splitter = StochasticSplitter(zoo["gemma-style"].vocabulary)
    with pytest.raises(TokenAdaptError, match="split before labels"):
        splitter({"input_ids": [[9, 9]], "labels": [[-100, 9]]}, [0])
    with pytest.raises(TokenAdaptError, match="split before padding"):
        splitter({"input_ids": [[9, 9]], "attention_mask": [[0, 1]]}, [0])
    with pytest.raises(TokenAdaptError, match="the column token_type_ids has a value for each token"):
        splitter({"input_ids": [[9, 9]], "token_type_ids": [[0, 1]]}, [0])
    with pytest.raises(TokenAdaptError, match="the column special_tokens_mask has a value for each token"):
        splitter({"input_ids": [[9, 9]], "special_tokens_mask": [[0, 0]]}, [0])
    with pytest.raises(TokenAdaptError, match="0 or more"):
        StochasticSplitter(zoo["gemma-style"].vocabulary, -1)


# --- merged ------------------------------------------------------------------------------------------


@given(texts=st.lists(st.sampled_from(CORPUS), min_size=1, max_size=4), num_merges=st.integers(0, 30))
def test_merged_sequences_stand_for_the_same_tokens(zoo, texts, num_merges):
    files = zoo["byte-level"]
    sequences = [files.fast_tokenizer().encode(t, add_special_tokens=False).ids for t in texts]
    batch = merge_frequent_pairs(sequences, files.vocabulary, num_merges, num_rows=700)
    back = [[old for i in ids for old in ((i,) if i < 700 else batch.new_tokens[i - 700])] for ids in batch.sequences]
    assert back == sequences
    assert len(batch.new_tokens) <= num_merges
    for parts in batch.new_tokens:
        assert not any(files.vocabulary.by_id[i].bytes[:1].isspace() for i in parts[1:])


def test_merges_by_hand(zoo):
    vocabulary = zoo["byte-level"].vocabulary
    a, b, c = (vocabulary.single_bytes[x] for x in b"abc")
    batch = merge_frequent_pairs([[a, b, c, a, b, c], [a, b]], vocabulary, 5, num_rows=700)
    assert batch.new_tokens == [(a, b), (a, b, c)]
    assert batch.sequences == [[701, 701], [700]]
    assert batch.num_tokens == 3


def test_rows_of_merged_tokens(zoo):
    files = zoo["byte-level"]
    torch.manual_seed(0)
    matrix = torch.randn(700, 8)
    a, b = (files.vocabulary.single_bytes[x] for x in b"qx")
    t, h = (files.vocabulary.single_bytes[x] for x in b"th")
    batch = merge_frequent_pairs([[a, b, a, b, t, h, t, h, t, h]], files.vocabulary, 2, num_rows=700)
    assert batch.new_tokens == [(t, h), (a, b)]
    rows = input_rows(batch, files, matrix, AdaptConfig(method="mean"))
    assert torch.equal(rows[:700], matrix)
    whole = files.vocabulary.find("th")
    assert whole is not None  # the vocabulary has it: that row is taken
    assert torch.equal(rows[700], matrix[whole.id])
    assert torch.allclose(rows[701], (matrix[a] + matrix[b]) / 2)
    assert json.dumps(batch.sequences)
