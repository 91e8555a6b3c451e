"""Matrices whose rows are known functions of their pieces, and plans to recover them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_transfer, plain_definition, with_method
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.auxiliary.ngram import NgramSpace
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import FitReport, RowRegression
from mergekit_tokenadapt.transfer.token_features import PieceFeatures
from mergekit_tokenadapt.transfer.transfer import Transfer

ATOMS, EXAMPLES, NEW, WIDTH = 150, 900, 60, 8
"""Base tokens without a formula, base tokens with one, new tokens, and columns of a matrix made by hand."""


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan_of(transfer: Transfer, name: str = "calibrated", **options: int) -> TransferPlan:
    return with_method(transfer, name, **options).make_plan()


def plan_between(
    base: TokenizerFiles, target: TokenizerFiles, space: AuxiliarySpace | None = None, **given: int
) -> TransferPlan:
    return plan_of(make_transfer(base, target, space or RandomSpace(seed=1), **given))


def regression_of(plan: TransferPlan) -> RowRegression:
    assert plan.regression is not None
    return plan.regression


def pieces_of(features: PieceFeatures) -> list[list[int]]:
    return [part.tolist() for part in features.pieces.ids.split(features.pieces.counts.tolist())]


class Formula:
    """A row is A mean + B first + C last + constant."""

    def __init__(self, seed: int, width: int = WIDTH) -> None:
        self.a, self.b, self.c = random_tensor(3, width, width, seed=seed) * 0.4 / width**0.5
        self.constant = random_tensor(width, seed=seed + 100)

    def __call__(self, matrix: Tensor, pieces: list[int]) -> Tensor:
        rows = matrix[pieces]
        return rows.mean(0) @ self.a + rows[0] @ self.b + rows[-1] @ self.c + self.constant


def features_by_hand(number: int, seed: int) -> PieceFeatures:
    """Two to six atoms each; neighbours that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 7, (number,), generator=generator)
    ids = torch.randint(0, ATOMS, (int(counts.sum()),), generator=generator)
    weights = (1 / counts.float()).repeat_interleave(counts)
    indptr = torch.cat([torch.zeros(1).long(), counts.cumsum(0)])
    neighbours = torch.randint(0, ATOMS, (number, 4), generator=generator).int()
    similarities = torch.rand(number, 4, generator=generator).sort(dim=1, descending=True).values
    scalars = torch.rand(number, 3, generator=generator).round()
    return PieceFeatures(SparseRows(indptr, ids, weights), neighbours, similarities, scalars)


def world_by_hand(examples: int = EXAMPLES, new: int = NEW) -> RowRegression:
    """The first rows are atoms, those after them are the examples'."""
    is_held_out = torch.arange(examples) % 10 == 3
    example_ids = ATOMS + torch.arange(examples)
    return RowRegression(
        example_ids, is_held_out, features_by_hand(examples, 1), torch.arange(new), features_by_hand(new, 2)
    )


def planted_by_hand(regression: RowRegression, formula: Formula, atoms: Tensor) -> Tensor:
    rows = [formula(atoms, pieces) for pieces in pieces_of(regression.examples)]
    return torch.cat([atoms, torch.stack(rows)])


def planted(plan: TransferPlan, formula: Formula, num_rows: int, seed: int, width: int = WIDTH) -> Tensor:
    """A matrix in which the examples of a plan follow the formula, smallest pieces first."""
    matrix = random_tensor(num_rows, width, seed=seed)
    features = regression_of(plan)
    pieces = dict(zip(features.example_ids.tolist(), pieces_of(features.examples), strict=True))
    done: set[int] = set()

    def fill(token_id: int) -> None:
        if token_id in pieces and token_id not in done:
            for piece in pieces[token_id]:
                fill(piece)
            matrix[token_id] = formula(matrix, pieces[token_id])
            done.add(token_id)

    for token_id in pieces:
        fill(token_id)
    return matrix


def all_usable(matrix: Tensor) -> Tensor:
    return torch.ones(len(matrix), dtype=torch.bool)


def predicted(regression: RowRegression, matrix: Tensor, usable: Tensor) -> tuple[Tensor, FitReport] | None:
    """All rows that a regression predicts, [N, D], and how good its fit is; None where there is no fit."""
    fit = regression.fit(matrix, usable)
    if fit is None:
        return None
    rows = torch.full((len(regression.new), matrix.shape[1]), torch.nan)
    for places, some in regression.predict(fit, matrix):
        rows[places] = some
    return rows, fit.report


def relative_error(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


SPACES: Mapping[str, Callable[[], AuxiliarySpace]] = {"random": lambda: RandomSpace(seed=2), "ngram": NgramSpace}


spaces = pytest.mark.parametrize("space", SPACES)


def small_world(new: list[str], *, merges: bool = True, letters: str = "abcdefgh") -> tuple[Transfer, int]:
    """All pairs and some triples of eight letters."""
    pairs = [x + y for x in letters for y in letters]
    triples = [pair + z for pair in pairs[::3] for z in letters[::2]]
    written = [f"{t[:-1]} {t[-1]}" for t in [*pairs, *triples]] if merges else []
    definition = plain_definition([*letters, *pairs, *triples], decoder=BYTE_LEVEL, merges=written)
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*letters, *new], decoder=BYTE_LEVEL))
    return make_transfer((definition, base), target, RandomSpace(seed=4)), base.num_ids
