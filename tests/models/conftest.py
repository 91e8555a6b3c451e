"""A tiny model with a byte-level tokenizer of English."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    english = tiny_models.byte_level_tokenizer(tiny_models.ENGLISH, 340)
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "base", english)
