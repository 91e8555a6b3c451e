"""The row regression, on rows that are known functions of their pieces."""

from __future__ import annotations

import pytest
import torch
from planted_rows import (
    ATOMS,
    EXAMPLES,
    NEW,
    WIDTH,
    Formula,
    all_usable,
    pieces_of,
    planted_by_hand,
    predicted,
    random_tensor,
    relative_error,
    world_by_hand,
)

from mergekit_tokenadapt.numerics import principal_directions
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer import row_regression as regression_module
from mergekit_tokenadapt.transfer.row_regression import RowRegression
from mergekit_tokenadapt.transfer.token_features import PieceFeatures


def test_a_planted_composition_is_recovered() -> None:
    world, formula = world_by_hand(), Formula(seed=3)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=4))
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    made, report = fitted
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    assert relative_error(made, expected) < 1e-3
    assert report.explained > 0.999
    assert report.penalty == min(regression_module.PENALTIES)
    assert (report.examples, report.held_out) == (EXAMPLES, EXAMPLES // 10)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as it is", "backwards"])
def test_first_and_last_piece_are_told_apart(order: slice) -> None:
    """Were the pieces sorted or swapped, a row that is its first piece could not be predicted."""
    world = world_by_hand()
    atoms = random_tensor(ATOMS, WIDTH, seed=5)
    matrix = torch.cat([atoms, torch.stack([atoms[pieces[order][0]] for pieces in pieces_of(world.examples)])])
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    expected = torch.stack([atoms[pieces[order][0]] for pieces in pieces_of(world.new)])
    assert relative_error(fitted[0], expected) < 1e-3


@pytest.mark.parametrize("place", [0, 3])
def test_a_row_that_is_a_neighbours_is_predicted_from_the_nearest_one(place: int) -> None:
    world = world_by_hand()
    atoms = random_tensor(ATOMS, WIDTH, seed=6)
    matrix = torch.cat([atoms, atoms[world.examples.neighbours[:, place].long()]])
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    error = relative_error(fitted[0], atoms[world.new.neighbours[:, place].long()])
    assert (error < 1e-3) == (place == 0)


def test_noise_is_not_believed() -> None:
    world = world_by_hand(examples=2000)
    matrix = random_tensor(ATOMS + 2000, WIDTH, seed=7) + 5
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    made, report = fitted
    assert report.penalty >= 1
    assert -0.1 < report.explained < 0.1
    mean = matrix[ATOMS:].mean(0)
    spread = matrix[ATOMS:].std()
    assert float((made - mean).square().mean().sqrt()) < 0.2 * spread


def test_half_noise_is_half_explained() -> None:
    world, formula = world_by_hand(), Formula(seed=8)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=9))
    signal = (matrix[ATOMS:] - matrix[ATOMS:].mean(0)).square().mean().sqrt()
    matrix[ATOMS:] += signal * random_tensor(EXAMPLES, WIDTH, seed=10)
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    assert 0.35 < fitted[1].explained < 0.6


def test_what_is_explained_is_measured_on_examples_that_were_not_fitted() -> None:
    """With fewer examples than columns, those that were fitted would be explained entirely."""
    world = world_by_hand(examples=60)
    matrix = random_tensor(ATOMS + 60, WIDTH, seed=11)
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    assert fitted[1].explained < 0.2


@pytest.mark.parametrize("width", [1, 9, 30, 33])
def test_a_gram_matrix_in_strips_is_the_whole_product(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_module, "MIN_STRIP", 4)
    columns = random_tensor(50, width, seed=18)
    made = regression_module.gram(columns)
    torch.testing.assert_close(made, columns.T @ columns)


@pytest.mark.parametrize("chunk", [1, 7, 899])
def test_chunks_do_not_change_the_predictions(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world, formula = world_by_hand(examples=200), Formula(seed=12)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=13))
    matrix += 0.3 * random_tensor(*matrix.shape, seed=14)
    whole = predicted(world, matrix, all_usable(matrix))
    monkeypatch.setattr(regression_module, "CHUNK", chunk)
    parts = predicted(world, matrix, all_usable(matrix))
    assert whole is not None
    assert parts is not None
    torch.testing.assert_close(parts[0], whole[0], atol=1e-4, rtol=1e-4)
    assert parts[1].explained == pytest.approx(whole[1].explained, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_a_matrix_does_not_matter(scale: float) -> None:
    world, formula = world_by_hand(), Formula(seed=15)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=16)) * scale
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    formula.constant *= scale
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    assert relative_error(fitted[0], expected) < 1e-3


def test_examples_all_of_two_pieces_give_equations_that_can_be_solved() -> None:
    """Mean, first and last are then not independent: whatever the rounding errors, there is an answer."""
    for seed in range(30):
        world = world_by_hand(examples=40 + 7 * seed, new=5)
        pairs = torch.randint(0, ATOMS, (2 * len(world.examples),), generator=torch.Generator().manual_seed(seed))
        halves = SparseRows(2 * torch.arange(len(world.examples) + 1), pairs, torch.full((len(pairs),), 0.5))
        examples = PieceFeatures(halves, world.examples.neighbours, world.examples.similarities, world.examples.scalars)
        world = RowRegression(world.example_ids, world.is_held_out, examples, world.new_ids, world.new)
        matrix = random_tensor(ATOMS + len(examples), WIDTH, seed=seed) * 10.0 ** (seed % 7 - 3)
        fitted = predicted(world, matrix, all_usable(matrix))
        assert fitted is not None
        assert fitted[0].isfinite().all()


def test_a_constant_matrix_gives_the_constant() -> None:
    world = world_by_hand(examples=100)
    matrix = torch.full((ATOMS + 100, WIDTH), 0.7)
    fitted = predicted(world, matrix, all_usable(matrix))
    assert fitted is not None
    torch.testing.assert_close(fitted[0], torch.full((NEW, WIDTH), 0.7))
    assert fitted[1].explained <= 1


def test_a_wide_matrix_is_fitted_along_its_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_directions, "MAX_DIRECTIONS", 8)
    seen: list[int] = []
    columns = PieceFeatures.columns
    monkeypatch.setattr(PieceFeatures, "columns", lambda self, m: seen.append(m.shape[1]) or columns(self, m))
    world, formula = world_by_hand(), Formula(seed=42)
    narrow = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=43))
    basis = torch.linalg.qr(random_tensor(20, 20, seed=44)).Q[:WIDTH]
    wide = narrow @ basis + 1e-5 * random_tensor(len(narrow), 20, seed=45)
    fitted = predicted(world, wide, all_usable(wide))
    assert fitted is not None
    made, report = fitted
    assert made.shape == (NEW, 20)
    expected = torch.stack([formula(narrow, pieces) for pieces in pieces_of(world.new)]) @ basis
    assert relative_error(made, expected) < 1e-3
    assert report.explained > 0.999
    assert set(seen) == {8}


def test_a_bad_row_is_not_an_answer() -> None:
    """The planted composition is still recovered, exactly, where a few answers are broken."""
    world, formula = world_by_hand(), Formula(seed=51)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=52))
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    usable = all_usable(matrix)
    usable[ATOMS + 3 :: 100] = False  # one of them held out
    usable[ATOMS + 7 :: 100] = False
    matrix[~usable] = 1e4
    fitted = predicted(world, matrix, usable)
    assert fitted is not None
    assert relative_error(fitted[0], expected) < 1e-3
    assert (fitted[1].examples, fitted[1].held_out) == (EXAMPLES - 18, EXAMPLES // 10 - 9)
