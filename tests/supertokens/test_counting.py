"""Counts of pairs and runs, against counting one by one."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from learning_texts import RUNS, as_stream, new_ids, plain, runs_as_text, streams

from mergekit_tokenadapt.supertokens.counting import (
    add_pairs,
    add_runs,
    count_pairs,
    count_runs,
    pair_keys,
    run_stream,
)
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.supertokens.rules import Joints, Rules
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@given(RUNS, RUNS)
def test_pairs_against_counting_one_by_one_and_parts_add_up(one, two):
    expected = Counter(pair for run in one + two for pair in pairwise(run))
    whole = count_pairs(streams(*[(*next(as_stream(r)),) for r in (one, two)]), 10**6)
    summed = count_pairs(as_stream(one), 10**6) + count_pairs(as_stream(two), 10**6)
    for found in (whole, summed):
        pairs = {(int(k) >> 32, int(k) & 0xFFFFFFFF): int(n) for k, n in zip(found.keys, found.counts, strict=True)}
        assert pairs == expected
        assert found.lost == 0


@given(RUNS, st.integers(1, 5), st.integers(1, 4))
def test_runs_against_splitting_one_by_one(runs, min_frequency, times):
    runs = runs * times
    pairs = Counter(pair for run in runs for pair in pairwise(run))
    expected = Counter()
    for run in runs:
        pieces = [[run[0]]]
        for pair in pairwise(run):
            if pairs[pair] < min_frequency:
                pieces.append([])
            pieces[-1].append(pair[1])
        expected.update(runs_as_text(p for p in pieces if len(p) > 1))
    counted = count_pairs(as_stream(runs), 10**6)
    found = count_runs(as_stream(runs), counted, min_frequency, 10**9)
    assert found.counts == expected
    # Splitting later gives the same as splitting at once.
    assert count_runs(as_stream(runs), counted, 1, 10**9).split_at_rare_pairs(counted, min_frequency).counts == expected


@given(st.lists(RUNS, min_size=1, max_size=5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_parts_add_up_to_the_whole_in_any_order(parts, min_frequency, rng):
    whole = [run for part in parts for run in part]
    pairs = count_pairs(as_stream(whole), 10**6)
    runs = count_runs(as_stream(whole), pairs, min_frequency, 10**9)
    rng.shuffle(parts)
    added = add_pairs((count_pairs(as_stream(part), 10**6) for part in parts), 10**6)
    assert added.keys.tolist() == pairs.keys.tolist()
    assert added.counts.tolist() == pairs.counts.tolist()
    counted = (count_runs(as_stream(part), added, min_frequency, 10**9) for part in parts)
    assert add_runs(counted, added, min_frequency, 10**9).counts == runs.counts


def test_added_runs_are_split_finer_where_memory_ends():
    rng = random.Random(0)
    runs = [[rng.choice([1, 2, 3]), rng.randrange(4, 2000), rng.choice([1, 2, 3]), 1, 2] for _ in range(4000)]
    pairs = count_pairs(as_stream(runs), 10**6)
    parts = [count_runs(as_stream(runs[n : n + 500]), pairs, 2, 10**9) for n in range(0, 4000, 500)]
    added = add_runs(parts, pairs, 2, 200_000)
    assert added.bytes_held() <= 200_000
    assert added.counts == count_runs(as_stream(runs), pairs, added.min_frequency, 10**9).counts


def test_lossy_counts_keep_what_is_frequent():
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 20000), 3000).astype(np.int32)
    starts = np.zeros(len(ids), dtype=bool)
    stream = [(ids[n : n + 500], starts[n : n + 500]) for n in range(0, len(ids), 500)]
    exact, lossy = count_pairs(iter(stream), 10**6), count_pairs(iter(stream), 1000)
    assert len(lossy.keys) <= 1000 < len(exact.keys)
    assert lossy.lost > 0
    kept = dict(zip(lossy.keys.tolist(), lossy.counts.tolist(), strict=True))
    for key, count in zip(exact.keys.tolist(), exact.counts.tolist(), strict=True):
        assert count - lossy.lost <= kept.get(key, 0) <= count


def test_runs_are_split_finer_where_memory_ends():
    rng = random.Random(0)
    runs = [[rng.choice([1, 2, 3]), rng.randrange(4, 2000), rng.choice([1, 2, 3]), 1, 2] for _ in range(4000)]
    pairs = count_pairs(as_stream(runs), 10**6)
    wide, narrow = (count_runs(as_stream(runs), pairs, 2, memory) for memory in (10**9, 200_000))
    assert wide.min_frequency == 2 < narrow.min_frequency
    assert narrow.bytes_held() <= 200_000
    (frequent,) = runs_as_text([[1, 2]])
    one, two = (sum(run.count(frequent) * n for run, n in found.counts.items()) for found in (wide, narrow))
    assert one == two == 4000


def test_training_counts_what_the_result_segments(trained, corpus):
    """Phase 2 starts from exactly the tokens that the result makes before its new merges."""
    merges = list(merges_of(trained))
    vocabulary = Vocabulary.from_definition(trained)
    # Words are half of the vocabulary, and this text lacks no characters then.
    first = next(n for n, (x, y) in enumerate(merges) if "Ġ" in (x + y).strip("Ġ"))
    before = {**trained, "model": {**trained["model"], "merges": merges[:first]}}
    joints = Joints(vocabulary, Rules())
    ids, starts = next(run_stream(corpus.pieces(), plain(before), joints))
    assert len(ids) == sum(len(new_ids(before, piece)) for piece in corpus.pieces())
    # The very first merge across words is the most frequent pair of neighbours that may be joined.
    pairs = count_pairs(iter([(ids, starts)]), 10**6)
    left, right = (vocabulary.by_spelling[s].id for s in merges[first])
    assert pairs.counts[pairs.keys == pair_keys(np.array([left, right]))[0]].tolist() == [pairs.counts.max()]
