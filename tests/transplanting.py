"""A transplant as a test calls it, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit.options import MergeOptions
from safetensors.torch import load_file
from torch import Tensor

from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def transplant(
    base: Path,
    target: Path,
    out: Path,
    *,
    force: bool = False,
    dtype: str | None = None,
    pad: int | None = None,
    options: Mapping[str, Any] | None = None,
    **adapt: Any,
) -> Path:
    """The library call behind the command."""
    recipe = make_recipe(str(base), str(target), {"method": "mean", **adapt}, dtype=dtype, pad_to_multiple_of=pad)
    return run_recipe(recipe, str(out), MergeOptions(quiet=True, **(options or {})), force=force)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(str(file)).items()}


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; those set to None are taken out."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
