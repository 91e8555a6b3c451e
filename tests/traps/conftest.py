"""Tiny base models for the trap tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def base(
    tmp_path_factory: pytest.TempPathFactory, byte_level_folder: Path, tiny_model_folder: Callable[..., Path]
) -> Path:
    """A tied bfloat16 model with the byte-level tokenizer. Not to be changed."""
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("base") / "model", dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def untied_base(
    tmp_path_factory: pytest.TempPathFactory, byte_level_folder: Path, tiny_model_folder: Callable[..., Path]
) -> Path:
    """An untied float32 model with the byte-level tokenizer. Not to be changed."""
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("untied") / "model", tied=False)
