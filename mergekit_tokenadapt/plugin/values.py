"""Check values of a recipe and of mergekit's options before any tokenizer or tensor is read."""

from __future__ import annotations

from pathlib import Path

from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.loading import choose_device
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig


def check_values(adapt: AdaptConfig, config: MergeConfiguration, options: MergeOptions) -> None:
    """Check values that would otherwise cause an error only after minutes.

    Raises:
        TokenAdaptError: a dtype is not a floating-point type, or the device or the chat template does not exist.
    """
    for key in ("dtype", "out_dtype"):
        _check_dtype(key, getattr(config, key))
    choose_device(options.device or "cpu")
    if adapt.chat_template not in ("target", "base") and not Path(adapt.chat_template).is_file():
        raise TokenAdaptError(f"chat_template: {adapt.chat_template!r} is neither 'target' nor 'base' nor a file")


def _check_dtype(key: str, name: str | None) -> None:
    try:
        dtype = dtype_from_name(name)
    except RuntimeError:
        dtype = None
    if name and (dtype is None or not dtype.is_floating_point):
        raise TokenAdaptError(f"{key}: takes bfloat16, float16, float32 or float64, not {name!r}")
