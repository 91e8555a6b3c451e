"""Losses of two tokenizations of one text, compared token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scored_texts import document

from mergekit_tokenadapt.evaluation.excess import excess_losses, loss_shares, token_classes
from mergekit_tokenadapt.evaluation.origins import find_origins
from mergekit_tokenadapt.models.folder import open_model


def test_excess_by_hand() -> None:
    base = document([4.0, 2.0], [4, 6])  # one nat per byte
    ours = document([3.0, 5.0, 1.0], [2, 5, 6])
    assert excess_losses(ours, base).tolist() == [3 - 2, 5 - 3, 1 - 1]
    assert excess_losses(base, base).tolist() == [0, 0]


def test_excess_where_base_tokens_share_an_end() -> None:
    base = document([1.0, 2.0, 3.0], [3, 3, 4])  # two parts of one character
    ours = document([5.0, 5.0], [3, 4])
    assert excess_losses(ours, base).tolist() == [5 - 3, 5 - 3]


def test_classes_of_tokens(out: Path, base: Path) -> None:
    origins = find_origins(open_model(str(out)), open_model(str(base)))
    assert origins is not None
    new, copied = int(origins.new_ids[0]), int(origins.copied_ids[-1])
    classes = token_classes(np.array([copied, new, copied, copied, new, new]), origins)
    assert classes.tolist() == [1, 0, 2, 1, 0, 0]
    ours = document([1.0, 2.0, 3.0, 2.0], [1, 2, 3, 8], [copied, new, copied, copied])
    shares = loss_shares([(ours, document([8.0], [8]))], origins)
    assert shares["new"]["loss"] == pytest.approx(2 / 8)
    assert shares["following"]["bytes"] == pytest.approx(1 / 8)
    assert shares["copied"]["tokens"] == pytest.approx(2 / 4)
