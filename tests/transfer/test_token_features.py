"""The columns that the row regression computes for each token."""

from __future__ import annotations

import numpy as np
import torch
from planted_rows import (
    ATOMS,
    WIDTH,
    features_by_hand,
    pieces_of,
    random_tensor,
)

from mergekit_tokenadapt.transfer import token_features
from mergekit_tokenadapt.transfer.token_features import PieceFeatures


def test_unknown_neighbours_are_worth_nothing() -> None:
    """Similarity -inf: whatever ids stand there, and whatever their rows are."""
    features = features_by_hand(20, seed=3)
    features.similarities[5:10] = -torch.inf
    features.similarities[10:, 2:] = -torch.inf
    matrix = random_tensor(ATOMS, WIDTH, seed=17)
    columns = features.columns(matrix)
    assert columns.isfinite().all()
    assert columns.shape == (20, 7 * WIDTH + 3 + 4)
    assert (columns[5:10, 3 * WIDTH : 7 * WIDTH] == 0).all()
    other = PieceFeatures(features.pieces, features.neighbours.clone(), features.similarities, features.scalars)
    other.neighbours[~features.similarities.isfinite()] = 0
    assert torch.equal(other.columns(matrix), columns)


def test_the_columns_are_what_they_are_said_to_be() -> None:
    features, matrix = features_by_hand(30, seed=4), random_tensor(ATOMS, WIDTH, seed=18)
    columns = features.columns(matrix).double()
    for n, pieces in enumerate(pieces_of(features)):
        similarities = features.similarities[n].double()
        near = matrix[features.neighbours[n].long()].double()
        around = (similarities / token_features.SHARPNESS).softmax(0) @ near
        nearest = float(similarities[0])
        rows = [matrix[pieces].double().mean(0), matrix[pieces[0]], matrix[pieces[-1]], near[0], around]
        expected = torch.cat([
            *rows, near[0] * nearest**2, around * nearest**2,
            torch.tensor([np.log(len(pieces)), 1 / len(pieces), nearest, nearest**2]), features.scalars[n],
        ])  # fmt: skip
        torch.testing.assert_close(columns[n], expected, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_selected_features_are_those_of_the_tokens_chosen() -> None:
    features, matrix = features_by_hand(30, seed=5), random_tensor(ATOMS, WIDTH, seed=19)
    places = torch.tensor([7, 2, 29, 2])
    torch.testing.assert_close(features.select(places).columns(matrix), features.columns(matrix)[places])
