"""Models that `heal` cannot train, as far as their configs and classes tell. No weights are loaded."""

from __future__ import annotations

import re

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.model import with_adapters
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.models.classes import find_class
from mergekit_tokenadapt.models.folder import ModelFolder

LOGIT_CAP = re.compile(r"(final_logit_softcapping|logits?_soft_?cap(ping)?)")
"""Matches config keys of a bound on the logits. Those of attention have other names."""


def check_trainable(model: ModelFolder, options: HealOptions) -> None:
    """Refuse a model that `heal` would refuse after minutes: before it is swapped, and before its base reads the text.

    A model that changes its logits in a way that its config does not name is found when it is loaded; see
    `correction.states.Reader`.

    Raises:
        TokenAdaptError: the model is quantised, is no causal language model, has a bias at its output matrix, caps its
            logits, has embedding tables of single layers, or cannot get adapters although it is to be trained with
            them.
    """
    if model.config.get("quantization_config") or model.text_config.get("quantization_config"):
        raise TokenAdaptError(f"{model.name} is quantised: heal the model first, and quantise what comes out")
    tables = model.checkpoint.tables
    if tables.output is None or model.config.get("is_encoder_decoder"):
        what = "has no output matrix" if tables.output is None else "is an encoder-decoder"
        raise TokenAdaptError(f"{model.name} {what}: only causal language models can be healed")
    if f"{tables.output.rpartition('.')[0]}.bias" in tables.axes:
        raise TokenAdaptError(f"{model.name} has a bias at its output matrix, so that it cannot be healed")
    if capped := next((k for k in model.text_config if LOGIT_CAP.fullmatch(k) and model.text_config[k]), None):
        raise TokenAdaptError(f"{model.name} caps its logits ({capped} in config.json), so that it cannot be healed")
    if tables.per_layer:
        raise TokenAdaptError(
            f"{model.name} has an embedding table for each layer, which is not trained, so that it cannot be healed"
        )
    model_class = find_class(model.folder, trust_remote_code=model.trust_remote_code)
    if options.train == "lora" and model_class is not None:
        with_adapters(model_class.with_any_pad().build(), options)
