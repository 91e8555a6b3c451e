"""Models are loaded without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from small_models import small_config, small_model
from transformers import AutoModelForCausalLM

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


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


def test_an_encoder_is_no_causal_language_model(byte_level_folder: Path, tmp_path: Path) -> None:
    """transformers builds its causal class, which sees the token that is to be predicted."""
    tokenizer = load_tokenizer(str(byte_level_folder))
    tokenizer.copy_to(tmp_path)
    for is_decoder in (False, True):
        config = small_config(transformers.RobertaConfig, tokenizer.vocabulary.num_ids, is_decoder=is_decoder)
        small_model(transformers.RobertaForCausalLM, config).save_pretrained(tmp_path)
        if is_decoder:
            load_model(open_model(str(tmp_path)))
        else:
            with pytest.raises(TokenAdaptError, match=r"is an encoder \(roberta with is_decoder false\)"):
                load_model(open_model(str(tmp_path)))
