"""Check on the meta device, without weights, whether a model with some config runs."""

from __future__ import annotations

from typing import Any

import torch

from mergekit_tokenadapt.errors import first_line
from mergekit_tokenadapt.models.classes import CannotBuild, class_of


def forward_error(config: Any, num_texts: int = 1) -> str | None:
    """Build the class of a config on the meta device, and run it on texts of four tokens.

    Args:
        config: a transformers config; not changed.
        num_texts: number of texts in the batch.

    Returns:
        The type and first line of the error; None if the model runs or transformers has no class for the config. None,
        too, if the model reads the values of token ids, which the meta device does not have (GPT-2 with a pad token
        does so). Such an error tells nothing about the config.
    """
    try:
        model_class = class_of(config)
        if model_class is None:
            return None
        model = model_class.build()
        with torch.device("meta"), torch.inference_mode():
            ids = torch.ones((num_texts, 4), dtype=torch.int64)
            more = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
            model(input_ids=ids, **more)
    except Exception as error:  # the class's own code runs here, and may raise anything
        cause = error.__cause__ if isinstance(error, CannotBuild) and error.__cause__ else error
        message = f"{type(cause).__name__}: {first_line(cause)[:160]}"
        return None if "meta" in message.lower() else message
    return None
