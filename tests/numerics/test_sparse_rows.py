"""Rows as weighted sums of old rows, against a dense computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_tokenadapt.numerics import sparse_rows as sparse_rows_module
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows

Triplets = list[tuple[int, int, float]]
OLD_ROWS = 7

WEIGHT = st.floats(-2, 2, width=32).map(lambda w: round(w, 3))


@st.composite
def triplets(draw: st.DrawFn) -> tuple[int, Triplets]:
    """(number of rows, triplets), with repeated and missing rows."""
    num_rows = draw(st.integers(0, 6))
    if num_rows == 0:
        return 0, []
    one = st.tuples(st.integers(0, num_rows - 1), st.integers(0, OLD_ROWS - 1), WEIGHT)
    return num_rows, draw(st.lists(one, max_size=20))


def pack(num_rows: int, entries: Triplets) -> SparseRows:
    rows, ids, weights = zip(*entries, strict=True) if entries else ((), (), ())
    as_ids = [torch.tensor(column, dtype=torch.int64) for column in (rows, ids)]
    return SparseRows.from_triplets(*as_ids, torch.tensor(weights, dtype=torch.float32), num_rows)


def dense(num_rows: int, entries: Triplets) -> np.ndarray:
    matrix = np.zeros((num_rows, OLD_ROWS))
    for row, old, weight in entries:
        matrix[row, old] += weight
    return matrix


def to_dense(composition: SparseRows) -> np.ndarray:
    entries = list(zip(composition.rows.tolist(), composition.ids.tolist(), composition.weights.tolist(), strict=True))
    return dense(len(composition), entries)


@given(triplets())
def test_triplets_are_packed(given_triplets: tuple[int, Triplets]) -> None:
    num_rows, entries = given_triplets
    packed = pack(num_rows, entries)
    assert len(packed) == num_rows
    np.testing.assert_allclose(to_dense(packed), dense(num_rows, entries), atol=1e-5)
    assert packed.counts.tolist() == [len({old for row, old, _ in entries if row == n}) for n in range(num_rows)]
    assert (packed.indptr.dtype, packed.ids.dtype, packed.weights.dtype) == (torch.int64, torch.int64, torch.float32)


@given(triplets(), st.randoms(use_true_random=False))
def test_the_order_of_triplets_does_not_matter(given_triplets: tuple[int, Triplets], rng: object) -> None:
    num_rows, entries = given_triplets
    distinct = list({(row, old): (row, old, weight) for row, old, weight in entries}.values())
    shuffled = list(distinct)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = pack(num_rows, distinct), pack(num_rows, shuffled)
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.indptr, other.indptr)
    assert torch.equal(one.weights, other.weights)


@given(triplets(), st.integers(1, 9), st.integers(0, 2**16))
def test_apply_is_the_matrix_product(given_triplets: tuple[int, Triplets], width: int, seed: int) -> None:
    num_rows, entries = given_triplets
    matrix = np.random.default_rng(seed).normal(size=(OLD_ROWS, width)).astype(np.float32)
    made = pack(num_rows, entries).apply(torch.from_numpy(matrix))
    assert made.dtype == torch.float32
    assert made.shape == (num_rows, width)
    np.testing.assert_allclose(made.numpy(), dense(num_rows, entries) @ matrix.astype(np.float64), atol=1e-4)


@given(triplets(), triplets(), st.floats(0, 1, width=32))
def test_plus_is_the_weighted_sum_where_both_have_something(
    first: tuple[int, Triplets], second: tuple[int, Triplets], share: float
) -> None:
    num_rows = min(first[0], second[0])
    left, right = ([e for e in entries if e[0] < num_rows] for entries in (first[1], second[1]))
    summed = to_dense(pack(num_rows, left).plus(pack(num_rows, right), share))
    for n in range(num_rows):
        mine, others = dense(num_rows, left)[n], dense(num_rows, right)[n]
        if not any(row == n for row, _, _ in right):
            expected = mine
        elif not any(row == n for row, _, _ in left):
            expected = others
        else:
            expected = (1 - share) * mine + share * others
        np.testing.assert_allclose(summed[n], expected, atol=1e-5)


@given(triplets(), st.integers(1, 4))
def test_chunks_do_not_change_the_result(given_triplets: tuple[int, Triplets], chunk: int) -> None:
    num_rows, entries = given_triplets
    packed = pack(num_rows, entries)
    matrix = torch.randn(OLD_ROWS, 5, generator=torch.Generator().manual_seed(0))
    whole = packed.apply(matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_rows_module, "CHUNK_ROWS", chunk)
        assert torch.equal(packed.apply(matrix), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_rows_module, "CHUNK_BYTES", chunk * 4 * 5)
        parts = list(packed.in_chunks(matrix))
    assert all(len(rows) <= chunk for _, rows in parts)
    assert torch.equal(torch.cat([matrix[:0], *(rows for _, rows in parts)]), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_sums_are_computed_in_float32(dtype: torch.dtype) -> None:
    """256 + 1 is 256 in bfloat16; and what is stored in a narrow type is read exactly."""
    matrix = torch.tensor([[256.0, 0.1], [1.0, 0.3], [-256.0, 0.0]]).to(dtype)
    packed = pack(1, [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0)])
    made = packed.apply(matrix)
    assert made.dtype == torch.float32
    assert made[0, 0] == 1.0
    assert torch.equal(made, matrix.float().sum(0, keepdim=True))


def test_the_matrix_is_not_changed() -> None:
    matrix = torch.randn(OLD_ROWS, 3, generator=torch.Generator().manual_seed(1))
    before = matrix.clone()
    pack(2, [(0, 1, 0.5), (1, 2, 0.5)]).apply(matrix)
    assert torch.equal(matrix, before)


def test_empty_rows_stay_empty_and_are_zero() -> None:
    packed = pack(4, [(1, 2, 1.0)])
    assert packed.counts.tolist() == [0, 1, 0, 0]
    made = packed.apply(torch.ones(OLD_ROWS, 2))
    assert made.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_nothing_at_all_can_be_packed_and_applied() -> None:
    for num_rows in (0, 3):
        packed = pack(num_rows, [])
        assert packed.apply(torch.ones(OLD_ROWS, 2)).tolist() == [[0, 0]] * num_rows
        assert len(packed.plus(pack(num_rows, []), 0.5)) == num_rows


@pytest.mark.parametrize("entry", [(5, 0, 1.0), (-1, 0, 1.0), (0, -1, 1.0)], ids=["row", "negative row", "negative id"])
def test_triplets_out_of_range_are_refused(entry: tuple[int, int, float]) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        pack(5, [entry])


def test_a_row_is_listed_heaviest_first() -> None:
    packed = pack(2, [(1, 4, 0.25), (1, 0, 0.25), (1, 6, 0.5), (0, 3, 1.0)])
    assert packed.row(1) == [(6, 0.5), (0, 0.25), (4, 0.25)]
    assert packed.row(0) == [(3, 1.0)]


def test_a_row_that_nothing_needs_is_not_read() -> None:
    """NaN rows of the base, for instance of never trained tokens, stay where they are."""
    matrix = torch.ones(3, 2)
    matrix[1] = torch.nan
    assert pack(2, [(0, 0, 0.5), (0, 2, 0.5)]).apply(matrix).tolist() == [[1, 1], [0, 0]]


def test_cpu_keeps_everything() -> None:
    packed = pack(2, [(0, 1, 0.5)])
    assert to_dense(packed.cpu()).tolist() == to_dense(packed).tolist()
