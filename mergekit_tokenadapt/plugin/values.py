"""Check values of a recipe and of mergekit's options before any tokenizer or tensor is read."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mergekit._data import chat_templates
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.loading import choose_device
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

SHORTEST_TEMPLATE = 20
"""Characters of a chat template, at least: mergekit refuses shorter ones."""


def check_values(adapt: AdaptConfig, config: MergeConfiguration, options: MergeOptions) -> None:
    """Check values that would otherwise cause an error only after minutes.

    Raises:
        TokenAdaptError: a dtype is not a floating-point type, or the device or a chat template does not exist.
    """
    for key in ("dtype", "out_dtype"):
        _check_dtype(key, getattr(config, key))
    choose_device(options.device or "cpu")
    if adapt.chat_template not in ("target", "base") and not Path(adapt.chat_template).is_file():
        raise TokenAdaptError(f"chat_template: {adapt.chat_template!r} is neither 'target' nor 'base' nor a file")
    _check_template(config.chat_template)


def _check_dtype(key: str, name: str | None) -> None:
    try:
        dtype = dtype_from_name(name)
    except RuntimeError:
        dtype = None
    # mergekit reads `torch.bfloat16`, too, but writes it into config.json, which then does not load.
    if name and (dtype is None or not dtype.is_floating_point or name.startswith("torch.")):
        raise TokenAdaptError(f"{key}: takes bfloat16, float16, float32 or float64, not {name!r}")


def _check_template(template: str | None) -> None:
    """Check the recipe's own ``chat_template``, which mergekit looks at last.

    Raises:
        TokenAdaptError: it is neither `auto`, nor the name of one of mergekit's templates, nor a template.
    """
    if not template or template == "auto" or (len(template) >= SHORTEST_TEMPLATE and "{" in template):
        return
    known = sorted(Path(file.name).stem for file in files(chat_templates).iterdir() if file.name.endswith(".jinja"))
    if template not in known:
        raise TokenAdaptError(f"chat_template: takes auto, a template, or one of {', '.join(known)}, not {template!r}")
