"""Looking at the input models before the first slow step: tokenizers, shapes, and what cannot work."""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer_files import TokenizerFiles, load_tokenizer

LOG = logging.getLogger(__name__)

FLOATS = {"F64", "F32", "F16", "BF16"}
"""safetensors names of the dtypes that rows can be mixed in."""


@dataclass(frozen=True)
class InputModel:
    """One input model of the recipe."""

    reference: ModelReference
    tokenizer: TokenizerFiles
    folder: Path
    rows: int | None
    """Rows of its vocabulary tensors; None where that cannot be read without loading them."""
    row_shape: tuple[int, ...] | None
    """Shape of one row of its widest vocabulary tensor; None likewise."""
    output_name: str | None = None
    """mergekit's name of its output matrix, which is the input matrix where they are tied; None where there is none."""


def look_at(reference: ModelReference, architecture: ModelArchitecture, options: MergeOptions) -> InputModel:
    """Read what is needed of an input model, without loading tensors.

    Raises:
        TokenAdaptError: it is quantised, has no vocabulary tensor, or its tokenizer cannot be read.
    """
    config = reference.config(trust_remote_code=options.trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise TokenAdaptError(
            f"{reference} is a quantised checkpoint; rows cannot be mixed in it: use the unquantised model"
        )
    loader = LoaderCache().get(reference)
    known = architecture.all_weights(config)
    is_inferred = not architecture.architectures
    if not is_inferred:
        _check_complete(reference, known, loader.index.tensor_paths, options)
    weights = [w for w in known if w.vocabulary_axis is not None]
    names = {w.name: _names(w) for w in weights}
    present = {w: n for w, tries in names.items() for n in tries if n in loader.index.tensor_paths}
    # In a model that mergekit has no definition of, checkpoint and model may use different names.
    if not weights or not (present or is_inferred):
        raise TokenAdaptError(f"{reference} has no tensor with a vocabulary axis that mergekit knows of")
    axes = {w.name: w.vocabulary_axis for w in weights}
    shapes = []
    for weight, name in present.items():
        found = _shape(Path(loader.index.base_path) / loader.index.tensor_paths[name], name)
        if found is None:
            continue
        dtype, shape = found
        if dtype not in FLOATS:
            raise TokenAdaptError(
                f"{reference}: the tensor {name} is {dtype}, not a floating-point type that rows can be mixed in"
            )
        axis = axes[weight]
        shapes.append((shape[axis], (*shape[:axis], *shape[axis + 1 :])))
    path = reference.model
    tokenizer = load_tokenizer(path.path, revision=path.revision, trust_remote_code=options.trust_remote_code)
    return InputModel(
        reference,
        tokenizer,
        Path(loader.index.base_path),
        min((rows for rows, _ in shapes), default=None),
        max((row for _, row in shapes), key=len, default=None),
        _output_name([w for w in weights if w.name in present or is_inferred], tied=is_tied(config)),
    )


def check_together(models: list[InputModel]) -> None:
    """Refuse models whose rows cannot be merged.

    Raises:
        TokenAdaptError: their hidden sizes differ.
    """
    shapes = {m.row_shape: m for m in models if m.row_shape is not None}
    if len(shapes) > 1:
        listed = ", ".join(f"{m.reference}: {'x'.join(map(str, shape))}" for shape, m in shapes.items())
        raise TokenAdaptError(f"models of different hidden sizes cannot be merged ({listed})")


def check_tied(model: InputModel, output: WeightInfo) -> None:
    """Refuse to untie a model whose checkpoint holds an output matrix that its config says is not there.

    Some versions of transformers use such a matrix, others the input's: nobody can tell which one is meant.

    Raises:
        TokenAdaptError: it is there, and is not the input matrix.
    """
    loader = LoaderCache().get(model.reference)
    stored = loader.index.tensor_paths
    source = next((name for name in output.tied_names or () if name in stored), None)
    if output.name not in stored or source is None:
        return
    if not torch.equal(loader.get_tensor(output.name), loader.get_tensor(source)):
        raise TokenAdaptError(
            f"untie: {model.reference} says that its matrices are tied, but holds another {output.name}: take that "
            "tensor out, or say tie_word_embeddings: false in its config.json"
        )


def is_tied(config: Any) -> bool:
    """Whether a model's input and output matrix are one."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


def _output_name(weights: list[WeightInfo], *, tied: bool) -> str | None:
    """The output matrix among a model's vocabulary tensors, biases aside."""
    matrices: list[str] = [w.name for w in weights if not w.name.endswith("bias")]
    named = [name for name in matrices if OUTPUT_MATRIX.search(name)]
    if named and not tied:
        return named[0]
    return next((name for name in matrices if name not in named), None) if tied else None


OUTPUT_MATRIX = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|cls\.predictions\.decoder)\.weight$")
"""What architectures call their output matrix."""
BUFFERS = (".inv_freq", ".position_ids", ".masked_bias", ".attn.bias")
"""Ends of names of tensors that older checkpoints hold, and that models make themselves."""


def _names(weight: WeightInfo) -> list[str]:
    """All names under which a checkpoint may hold a weight."""
    return [weight.name, *(weight.aliases or ()), *(weight.tied_names or ())]


def _check_complete(
    reference: ModelReference, known: list[WeightInfo], present: Iterable[str], options: MergeOptions
) -> None:
    """Refuse a model with tensors that mergekit's definition of its architecture would leave out.

    Raises:
        TokenAdaptError: there are such tensors, and `--allow-crimes` is not given.
    """
    known_names = {name for weight in known for name in _names(weight)}
    lost = sorted(name for name in present if name not in known_names and not name.endswith(BUFFERS))
    if not lost:
        return
    shown = ", ".join(lost[:4]) + (", ..." if len(lost) > 4 else "")
    message = f"{reference}: mergekit's definition of the architecture leaves out {len(lost)} of its tensors ({shown})"
    if not options.allow_crimes:
        raise TokenAdaptError(f"{message}; the output would not work. To go on all the same: --allow-crimes")
    LOG.warning("%s; they will be missing from the output", message)


def _shape(file: Path, name: str) -> tuple[str, tuple[int, ...]] | None:
    """(dtype, shape) of a tensor in a safetensors file, from its header; None for other formats."""
    if file.suffix != ".safetensors":
        return None
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > 100_000_000:
                raise ValueError("header too long")
            entry = json.loads(opened.read(length))[name]
        return entry["dtype"], tuple(entry["shape"])
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise TokenAdaptError(f"{file} is not a readable safetensors file: {error}") from error
