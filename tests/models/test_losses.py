"""Losses of a model in windows, whatever the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import with_position_table

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer, token_losses, windows


def test_losses_do_not_depend_on_batches(base: Path) -> None:
    model = load_model(open_model(str(base)))
    sequences = [[0, *range(4, 4 + n)] for n in (50, 3, 17, 1, 0)]
    alone = Scorer(model, window=16, stride=8, max_batch=1).score(sequences)
    together = Scorer(model, window=16, stride=8).score(sequences)
    assert [len(losses) for losses in alone] == [50, 3, 17, 1, 0]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(0, 8, 4), (1, 8, 4), (8, 8, 4), (9, 8, 4), (100, 8, 8), (7, 3, 1)]
)
def test_windows_score_every_prediction_once(length: int, window: int, stride: int) -> None:
    runs = list(windows(0, length, window, stride))
    scored = [place for w in runs for place in range(w.first, w.end)]
    assert scored == list(range(length))
    assert all(w.end - w.begin <= window and w.begin <= w.first for w in runs)
    assert all(w.first - w.begin == window - (w.end - w.first) for w in runs[1:])


def test_a_stride_beyond_the_window_is_refused(base: Path) -> None:
    with pytest.raises(TokenAdaptError, match="stride must be between 1 and the window"):
        Scorer(None, window=8, stride=9)


def test_token_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    np.testing.assert_allclose(token_losses(logits, torch.tensor([1, 0])), [math.log(2), math.log(4 / 3)], atol=1e-6)


class FailsOnLargeBatches:
    """A model that runs out of memory with more than two windows."""

    def __init__(self, model: Any) -> None:
        self._model, self.device, self.config = model, model.device, model.config
        self.sizes: list[int] = []

    def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
        self.sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._model(inputs, **kwargs)


def test_out_of_memory_halves_the_batch(base: Path) -> None:
    model = load_model(open_model(str(base)))
    sequences = [[0, *range(4, 14)] for _ in range(9)]
    limited = FailsOnLargeBatches(model)
    found = Scorer(limited).score(sequences)
    assert limited.sizes == [9, 4, 2, 2, 2, 2, 1]
    for a, b in zip(found, Scorer(model).score(sequences), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_out_of_memory_with_one_window_is_an_error(base: Path) -> None:
    class Never(FailsOnLargeBatches):
        def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TokenAdaptError, match="try a smaller --window"):
        Scorer(Never(load_model(open_model(str(base))))).score([[0, 4, 5]])


def test_a_window_longer_than_the_position_table_is_an_error(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = with_position_table(byte_level_folder, tmp_path / "model", 16)
    model = load_model(open_model(str(folder)))
    with pytest.raises(TokenAdaptError, match="cannot read a window of 20 tokens, because it has a table of fewer pos"):
        Scorer(model, 32, 16).score([[4] * 21])
    assert len(Scorer(model, 16, 8).score([[4] * 21])[0]) == 20


def test_other_runtime_errors_are_not_swallowed(base: Path) -> None:
    class Broken(FailsOnLargeBatches):
        def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Scorer(Broken(load_model(open_model(str(base))))).score([[0, 4, 5]])
