"""A matrix along its leading principal directions."""

from __future__ import annotations

import pytest
from planted_rows import (
    random_tensor,
)

from mergekit_tokenadapt.numerics import principal_directions


def test_a_matrix_as_wide_as_allowed_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_tensor(50, 8, seed=46)
    for limit, same in [(8, True), (7, False)]:
        monkeypatch.setattr(principal_directions, "MAX_DIRECTIONS", limit)
        made = principal_directions.along_principal_directions(matrix)
        assert made.shape == (50, limit)
        assert (made is matrix) == same
