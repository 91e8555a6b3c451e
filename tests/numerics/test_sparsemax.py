"""Sparsemax against a plain search for its threshold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_tokenadapt.numerics import sparsemax as module
from mergekit_tokenadapt.numerics.sparsemax import sparsemax


def plain(scores):
    """Bisection: the weights max(0, z - tau) add up to 1 at one tau."""
    low, high = min(scores) - 1, max(scores)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(0, z - middle) for z in scores) > 1:
            low = middle
        else:
            high = middle
    return [max(0, z - low) for z in scores]


@pytest.mark.parametrize("first", [1, 3, 256])
@given(st.lists(st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=7), min_size=1, max_size=4))
def test_weights_are_those_of_the_nearest_point_of_the_simplex(first, rows):
    before, module.FIRST_LARGEST = module.FIRST_LARGEST, first
    try:
        weights, places = sparsemax(torch.tensor(rows))
    finally:
        module.FIRST_LARGEST = before
    for n, scores in enumerate(rows):
        found = [0.0] * 7
        for weight, place in zip(weights[n].tolist(), places[n].tolist(), strict=True):
            found[place] += weight
        assert found == pytest.approx(plain(scores), abs=1e-5)
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0] * len(rows), abs=1e-5)


def test_worked_examples():
    weights, places = sparsemax(torch.tensor([[0.0, 2.0, 1.5], [5.0, 0.0, 0.0]]))
    assert weights.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert places.tolist()[0] == [1, 2]
