"""Models that `heal` cannot train, as far as their configs and classes tell. Nothing is loaded."""

from __future__ import annotations

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder


def check_trainable(model: ModelFolder) -> None:
    """Refuse a model that `heal` would refuse after minutes: before it is swapped, and before its base reads the text.

    A model that changes its logits in a way that its config does not name is found when it is loaded; see
    `correction.states.Reader`.

    Raises:
        TokenAdaptError: the model is quantised, has no output matrix or one with a bias, or caps its logits.
    """
    if model.config.get("quantization_config") or model.text_config.get("quantization_config"):
        raise TokenAdaptError(f"{model.name} is quantised: heal the model first, and quantise what comes out")
    tables = model.checkpoint.tables
    if tables.output is None:
        raise TokenAdaptError(f"{model.name} has no output matrix: only causal language models can be healed")
    if f"{tables.output.rpartition('.')[0]}.bias" in tables.axes:
        raise TokenAdaptError(f"{model.name} has a bias at its output matrix, so that it cannot be healed")
    if model.text_config.get("final_logit_softcapping"):
        raise TokenAdaptError(
            f"{model.name} caps its logits (final_logit_softcapping in config.json), so that it cannot be healed"
        )
