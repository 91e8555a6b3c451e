"""The n-gram space: deterministic, sensible, and never in the way."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.decomposition import TruncatedSVD
from tokenizers_zoo import make_transfer
from torch import Tensor

from mergekit_tokenadapt.auxiliary import find_auxiliary
from mergekit_tokenadapt.auxiliary.ngram import SEED, NgramSpace, ngrams, reduce
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

CPU = torch.device("cpu")


def embed(texts: list[str], dimensions: int = 256) -> Tensor:
    return NgramSpace(dimensions).embed(texts, device=CPU, quiet=True)


def similarities(texts: list[str], dimensions: int = 256) -> Tensor:
    vectors = torch.nn.functional.normalize(embed(texts, dimensions), dim=1)
    return vectors @ vectors.T


@pytest.fixture(scope="module")
def words(zoo: Mapping[str, TokenizerFiles]) -> list[str]:
    """All distinct texts of two vocabularies, sorted, as a plan asks for them."""
    labels = {t.label for name in ("byte-level", "wordpiece") for t in zoo[name].vocabulary}
    return sorted(labels | {"River", " River", "RIVER", " river", "river", "bread", " bread", "Bread"})


def test_one_float32_vector_for_each_text(words: list[str]) -> None:
    vectors = embed(words, 32)
    assert vectors.shape == (len(words), 32)
    assert vectors.dtype == torch.float32
    assert vectors.is_contiguous()
    assert vectors.isfinite().all()


def test_the_same_texts_give_the_same_vectors(words: list[str]) -> None:
    assert torch.equal(embed(words, 32), embed(words, 32))


def test_other_random_numbers_in_between_do_not_matter(words: list[str]) -> None:
    import numpy as np

    first = embed(words, 16)
    np.random.seed(77)
    random.seed(77)
    torch.manual_seed(77)
    assert torch.equal(embed(words, 16), first)


@pytest.mark.parametrize(
    ("word", "variants"),
    [("river", {" river", "River", " River", "RIVER"}), (" bread", {"bread", "Bread"})],
)
def test_variants_in_case_and_leading_space_are_closest(word: str, variants: set[str], words: list[str]) -> None:
    row = similarities(words)[words.index(word)]
    row[words.index(word)] = -1
    nearest = {words[i] for i in row.topk(len(variants)).indices.tolist()}
    assert nearest == variants


def test_texts_that_share_parts_are_closer_than_texts_that_do_not() -> None:
    texts = ["baking", "making", "river", "rivers", "walking", "xyz", "yz"]
    near = similarities(texts)
    assert near[0, 1] > near[0, 4] > near[0, 2]
    assert near[2, 3] > near[2, 0]


@pytest.mark.parametrize(
    "texts",
    [
        ["a"],
        [" "],
        ["a", "b"],
        ["abc", "xyz"],
        [" ", "x"],
        ["  ", "x"],
        ["\n", "  "],
        ["\t", "\n"],
        ["", "a"],
        ["a", "b", "c"],
        ["\n", " ", "a"],
        ["", " ", "  "],
        ["\\xe4", "\\xe4\\xb8", "河"],
    ],
    ids=repr,
)
def test_tiny_inputs_give_one_vector_each(texts: list[str]) -> None:
    vectors = embed(texts)
    assert vectors.shape[0] == len(texts)
    assert vectors.shape[1] >= 1
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()


@pytest.mark.parametrize("dimensions", [2, 20, 99])
def test_dimensions_are_reduced_as_scikit_learn_does_it(dimensions: int) -> None:
    weights = scipy.sparse.random(300, 100, density=0.1, format="csr", dtype=np.float32, random_state=1)
    expected = TruncatedSVD(dimensions, n_iter=2, random_state=SEED).fit_transform(weights)
    reduced = reduce(weights, dimensions)
    np.testing.assert_allclose(reduced @ reduced.T, expected @ expected.T, atol=1e-4)


def test_directions_that_are_not_there_are_left_out() -> None:
    two_kinds = scipy.sparse.csr_matrix(np.repeat(np.eye(2, 5, dtype=np.float32), 10, axis=0))
    reduced = reduce(two_kinds, 4)
    assert reduced.shape == (20, 2)
    np.testing.assert_allclose(reduced @ reduced.T, (two_kinds @ two_kinds.T).toarray(), atol=1e-5)


def test_runs_of_white_space_are_not_all_alike() -> None:
    texts = ["\n", "\n\n", " ", "  ", "   ", "    ", "\t", "\t\t", "word", "words"]
    vectors = embed(sorted(texts))
    assert vectors.shape[0] == len(texts)
    near = similarities(sorted(texts))
    place = sorted(texts).index
    assert near[place("   "), place("    ")] > near[place("   "), place("word")]
    assert near[place("\n"), place("\n\n")] > near[place("\n"), place("words")]


def test_a_text_like_no_other_has_no_neighbours(zoo: Mapping[str, TokenizerFiles]) -> None:
    """Whatever the space gives for it, the weights stay numbers."""
    transfer = make_transfer(zoo["unigram"], zoo["byte-level"], NgramSpace())
    for name in ("local", "global", "hybrid"):
        weights = find_method(name, {}).weigh(transfer).weights
        assert weights.isfinite().all()
        assert (weights >= 0).all()


@pytest.mark.parametrize("dimensions", [2, 3, 5000])
def test_dimensions_are_at_most_what_is_asked_for(dimensions: int) -> None:
    texts = sorted({"baking", "making", "taking", "river", "rivers", "driver", "mill", "miller"})
    assert embed(texts, dimensions).shape[1] <= dimensions


@pytest.mark.parametrize(
    ("text", "variants"),
    [("straße", [" STRASSE", "Straße"]), ("):", ["):\n", " ):\n\n"]), ("return", ["\n\treturn", " Return "])],
)
def test_grams_depend_neither_on_case_nor_on_white_space_around_a_text(text: str, variants: list[str]) -> None:
    assert all(list(ngrams(variant)) == list(ngrams(text)) for variant in variants)


def test_white_space_inside_a_text_and_alone_counts() -> None:
    assert set(ngrams("a\nb")) - set(ngrams("a b")) >= {"\n", "a\nb"}
    assert set(ngrams("\n\n")) > set(ngrams("\n"))
    assert "\n" not in set(ngrams("  "))


def test_the_beginning_and_end_of_a_text_count() -> None:
    assert not {gram for gram in set(ngrams("ing")) & set(ngrams("singer")) if "\x02" in gram and len(gram) > 1}


# --- naming it -----------------------------------------------------------------------------------


def test_the_default_is_found_by_name() -> None:
    space = find_auxiliary("ngram")
    assert isinstance(space, NgramSpace)
    assert space.dimensions == 256


def test_the_dimensions_can_be_given() -> None:
    space = find_auxiliary("ngram:64")
    assert isinstance(space, NgramSpace)
    assert space.dimensions == 64


@pytest.mark.parametrize("argument", ["0", "-3", "many", "2.5", " 64", "²"])
def test_a_wrong_number_of_dimensions_is_refused(argument: str) -> None:
    with pytest.raises(TokenAdaptError, match=f"'ngram:{argument}'.*for instance ngram:256"):
        find_auxiliary(f"ngram:{argument}")


def test_an_unknown_auxiliary_names_the_known_ones() -> None:
    with pytest.raises(TokenAdaptError, match=r"unknown auxiliary 'ngrams': not one of .*ngram"):
        find_auxiliary("ngrams")
