"""A model's class built from a config without memory (on the meta device), and whether it runs."""

from __future__ import annotations

import copy
from typing import Any

import torch

from mergekit_tokenadapt.errors import first_line


def build(config: Any) -> torch.nn.Module | None:
    """The model that transformers makes of a config, without weights; None where it has no class for it.

    Raises:
        Exception: of any kind; the class's own code runs.
    """
    import transformers

    names = getattr(config, "architectures", None) or []
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    if found is None or not hasattr(found, "_from_config"):
        return None
    with torch.device("meta"):
        model: torch.nn.Module = found._from_config(copy.deepcopy(config))
    return model.eval()


def forward_error(config: Any) -> str | None:
    """What a model of this config says to four tokens; None where it runs, or where there is no class for it.

    Many models look at the values of ids (GPT-2, once it has a pad token), which the meta device does not have. That
    says nothing of the model, and is None, too.
    """
    try:
        model = build(config)
        if model is None:
            return None
        with torch.device("meta"), torch.inference_mode():
            ids = torch.ones((1, 4), dtype=torch.int64)
            more = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
            model(input_ids=ids, **more)
    except Exception as error:  # the class's own code runs here, and may raise anything
        said = f"{type(error).__name__}: {first_line(error)[:160]}"
        return None if "meta" in said.lower() else said
    return None
