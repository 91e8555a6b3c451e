"""The same bytes, however many threads there are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mergekit_tokenadapt.auxiliary import ngram
from mergekit_tokenadapt.numerics.inner_products import ScreenedSearch
from mergekit_tokenadapt.numerics.threads import in_threads, one_thread
from mergekit_tokenadapt.transfer import row_regression


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def ridge() -> torch.Tensor:
    columns = random(2000, 700)
    zeros = torch.zeros((), dtype=torch.float64)
    equations = row_regression._Equations(zeros, zeros, 0.0, 0).plus(columns, random(2000, 64))
    weights = equations.ridge(0.1)
    assert weights is not None
    return torch.cat([weights.flatten(), torch.tensor([equations.variance, equations.explained(weights)])])


@pytest.mark.parametrize(
    "work",
    [
        ridge,
        lambda: row_regression.principal_directions(random(1500, 800)),
        lambda: ScreenedSearch(random(4000, 300))._rotation_DD,
    ],
    ids=["ridge", "principal directions", "rotation"],
)
def test_the_number_of_threads_changes_nothing(work: Callable[[], Any]) -> None:
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with threadpool_limits(limits=threads):
                made.append(work())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)


def test_the_ngram_space_is_decomposed_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only matrices of tens of thousands of texts show the difference: what is looked at here is the number."""
    seen = []
    reduce = ngram.reduce

    def spied(weights: Any, dimensions: int) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return reduce(weights, dimensions)

    monkeypatch.setattr(ngram, "reduce", spied)
    with threadpool_limits(limits=2, user_api="blas"):
        ngram.NgramSpace(4).embed([f"text {n}" for n in range(50)], device=torch.device("cpu"), quiet=True)
    assert seen
    assert set(seen) == {1}


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_work_in_threads_comes_back_in_order_and_each_has_one_thread(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = in_threads(lambda n: (n, torch.get_num_threads()), range(20), num_threads)
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert found == [(n, 1) for n in range(20)]


def test_an_error_in_a_thread_is_raised_and_the_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda n: 1 // n, [1, 0], 2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
