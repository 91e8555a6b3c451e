"""Merges learned from counted runs, against a slow plain version."""

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from learning_texts import RUNS, as_stream, runs_as_text, streams
from tokenizers_zoo import plain_definition

from mergekit_tokenadapt.supertokens.counting import (
    FIRST_CHARACTER,
    RunCounts,
    count_pairs,
    count_runs,
)
from mergekit_tokenadapt.supertokens.learning import learn_merges, spooled
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


def test_a_spool_reads_the_same_again():
    parts = [([0, 5, 7], [True, False, True]), ([1, 0], [True, True])]
    with spooled(streams(*parts)) as spool:
        first, again = list(spool.first()), list(spool.again())
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert a.tolist() == c.tolist()
        assert b.tolist() == d.tolist()


def slow_bpe(runs, num_merges, min_frequency):
    """Byte-pair encoding as in the textbook; ties go to the pair of lower ids, in order of appearance."""
    words = [[list(run), count] for run, count in sorted(runs.items())]
    number = {c: n for n, c in enumerate(sorted(set("".join(runs))))}
    merges = []
    while len(merges) < num_merges:
        counts = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda p: (-counts[p], number[p[0]], number[p[1]]))
        if counts[best] < min_frequency:
            break
        merges.append(best)
        number.setdefault("".join(best), len(number))
        for entry in words:
            word, joined = entry[0], []
            while word:
                if tuple(word[:2]) == best:
                    joined.append("".join(best))
                    word = word[2:]
                else:
                    joined.append(word[0])
                    word = word[1:]
            entry[0] = joined
    return merges


def test_merges_against_a_slow_plain_version():
    letters = "abcdefg"
    vocabulary = Vocabulary.from_definition(plain_definition(letters))
    rng = random.Random(1)
    runs = Counter("".join(rng.choices(letters, weights=[9, 7, 5, 3, 2, 1, 1], k=rng.randint(2, 9))) for _ in range(80))
    mapped = RunCounts(
        Counter({"".join(chr(FIRST_CHARACTER + letters.index(c)) for c in r): n for r, n in runs.items()})
    )
    learned = learn_merges(mapped, vocabulary, 25, Rules())
    expected, known = [], set(letters)
    for left, right in slow_bpe(runs, 60, 2):
        if left + right not in known and len(known) == len(letters) + 25:
            break
        known.add(left + right)
        expected.append((left, right))
    assert [(m.left, m.right) for m in learned] == expected


@given(RUNS, st.integers(2, 6))
def test_splitting_at_rare_pairs_changes_nothing_that_is_learned(runs, min_frequency):
    """The reason why counts can be bounded."""
    runs = runs * 3
    vocabulary = Vocabulary.from_definition(plain_definition("abcdefg"))
    pairs = count_pairs(as_stream(runs), 10**6)
    whole = RunCounts(Counter(runs_as_text(r for r in runs if len(r) > 1)), min_frequency)
    finely = count_runs(as_stream(runs), pairs, min_frequency, 10**9)
    one, two = (learn_merges(r, vocabulary, 40, Rules()) for r in (whole, finely))
    # Where counts tie, numbers of characters decide, which are the same in both.
    assert {(m.left, m.right) for m in one} == {(m.left, m.right) for m in two}
