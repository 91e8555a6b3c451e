"""Data mixture inference: on tokenizers trained on mixtures that we know."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tokenizers import Tokenizer, models

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.mixture_inference import (
    UNIT,
    check_samples,
    infer_mixture,
    merge_symbols,
    read_merges,
    replay,
    solve,
)
from mergekit_tokenadapt.texts import TextSet, builtin_text
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

LANGUAGES = ("en", "de", "sw", "tr")


def trained_on(shares: dict[str, int], folder: Path, documents: slice = slice(None)) -> str:
    """A tokenizer trained on each text so many times; texts are truncated to the same number of bytes first."""
    lines = [d for name, times in shares.items() for d in list(builtin_text(name).documents)[documents] * times]
    return str(tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(lines, 260 + 400), folder))


def expected_shares(shares: dict[str, int], documents: slice = slice(None)) -> dict[str, float]:
    sizes = {
        name: times * sum(len(d.encode()) for d in builtin_text(name).documents[documents])
        for name, times in shares.items()
    }
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


@pytest.mark.parametrize(
    "shares",
    [{"en": 6, "de": 3, "sw": 1, "tr": 0}, {"en": 1, "de": 1, "sw": 1, "tr": 1}, {"en": 0, "de": 0, "sw": 9, "tr": 1}],
    ids=["uneven", "even", "two only"],
)
def test_a_known_mixture_is_found_again(shares: dict[str, int], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained_on(shares, tmp_path / "t"))
    found = infer_mixture(tokenizer, [builtin_text(name) for name in LANGUAGES], 300)
    assert found["shares"] == pytest.approx(expected_shares(shares), abs=0.02)
    assert found["violation"] < 1
    assert found["merges"] == 300


def test_samples_that_the_tokenizer_never_saw_do_nearly_as_well(tmp_path: Path) -> None:
    shares = {"en": 6, "de": 3, "sw": 1, "tr": 2}
    tokenizer = load_tokenizer(trained_on(shares, tmp_path / "t", slice(0, None, 2)))
    held_out = [TextSet.of(n, builtin_text(n).documents[1::2], "held out") for n in LANGUAGES]
    found = infer_mixture(tokenizer, held_out, 150)
    assert found["shares"] == pytest.approx(expected_shares(shares, slice(0, None, 2)), abs=0.12)


def test_two_categories_of_one_name_are_refused() -> None:
    samples = [TextSet.of("a", ("one",), "x"), TextSet.of("a", ("two",), "y")]
    with pytest.raises(TokenAdaptError, match="two texts have the name 'a'"):
        check_samples(samples)


def test_counts_agree_with_counting_anew_before_every_merge() -> None:
    words = {"banana": np.array([3.0, 0.0]), "bandana": np.array([1.0, 2.0]), "aaaa": np.array([0.0, 5.0])}
    merges = [("a", "n"), ("an", "a"), ("z", "z"), ("a", "a"), ("b", "an")]
    sizes = np.array([100.0, 200.0])
    history = replay(words, merges, sizes)
    names: dict[int, tuple[str, str]] = {}
    counts = history.initial.copy()
    spelled = {word: list(word) for word in words}
    for step, merge in enumerate(merges):
        expected: Counter[tuple[str, str]] = Counter()
        for k in range(2):
            for word, symbols in spelled.items():
                for pair in itertools.pairwise(symbols):
                    expected[pair, k] += words[word][k] * UNIT / sizes[k]
        found = sorted(tuple(row) for row in counts.round(6).tolist() if any(row))
        pairs = {pair for (pair, _), count in expected.items() if count}
        assert found == sorted((round(expected[p, 0], 6), round(expected[p, 1], 6)) for p in pairs)
        chosen = history.merged[step]
        if chosen >= 0:
            assert counts[chosen].tolist() == pytest.approx([expected[merge, 0], expected[merge, 1]])
            names[chosen] = merge
        spelled = {word: merge_symbols(symbols, merge) for word, symbols in spelled.items()}
        ids, after = history.changes[step]
        counts[ids] = after
    assert history.seen.tolist() == [True, True, False, True, True]


def test_a_programme_worked_by_hand() -> None:
    # Category 0 has "ab" twice as often as "cd"; in category 1 it is the other way round. That "ab" was
    # merged first says that category 0 has a share of at least one half.
    words = {"ab": np.array([2.0, 1.0]), "cd": np.array([1.0, 2.0])}
    shares, violation = solve(replay(words, [("a", "b"), ("c", "d")], np.array([10.0, 10.0])))
    assert shares[0] >= 0.5 - 1e-6
    assert violation == pytest.approx(0, abs=1e-6)
    shares, _ = solve(replay(words, [("c", "d"), ("a", "b")], np.array([10.0, 10.0])))
    assert shares[0] <= 0.5 + 1e-6


def test_merges_are_read_in_both_spellings(tmp_path: Path) -> None:
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(["the the"], 262), tmp_path / "t")
    pairs = read_merges(load_tokenizer(str(folder)))
    tiny_models.edit_json(
        folder / "tokenizer.json", lambda c: c["model"].update(merges=[" ".join(m) for m in c["model"]["merges"]])
    )
    assert read_merges(load_tokenizer(str(folder))) == pairs
    assert len(pairs) == 2


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    folder = tiny_models.write_tokenizer(tokenizer, tmp_path / "t", bos_token=None, eos_token=None)
    with pytest.raises(TokenAdaptError, match="is not a BPE tokenizer"):
        infer_mixture(load_tokenizer(str(folder)), [builtin_text("en"), builtin_text("de")], 10)


def test_samples_without_any_merge_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(["zzzz zzzz"], 262), tmp_path / "t")
    samples = [TextSet.of("a", ["xx"], "test"), TextSet.of("b", ["yy"], "test")]
    with pytest.raises(TokenAdaptError, match="none of the first 2 merges"):
        infer_mixture(load_tokenizer(str(folder)), samples, 2)
    with pytest.raises(TokenAdaptError, match="the sample b has no word of two characters"):
        infer_mixture(
            load_tokenizer(str(folder)), [TextSet.of("a", ["zzzz"], "test"), TextSet.of("b", ["y"], "test")], 2
        )
