"""Models are loaded without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model


def test_loading_prints_nothing_and_leaves_the_bars_of_others_alone(
    base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    load_model(open_model(str(base)))
    assert capfd.readouterr().err == ""
    AutoModelForCausalLM.from_pretrained(base)
    assert "Loading weights" in capfd.readouterr().err
    logging.disable_progress_bar()
    try:
        load_model(open_model(str(base)))
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()
