"""Looking at the input models before the first slow step: tokenizers, shapes, and what cannot work."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models import CannotBuild, Checkpoint, StoredTable, read_checkpoint
from mergekit_tokenadapt.models.classes import Shape
from mergekit_tokenadapt.models.folder import TensorFiles
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer

LOG = logging.getLogger(__name__)

FLOATS = {"float64", "float32", "float16", "bfloat16"}
"""The dtypes that rows can be computed in."""


@dataclass(frozen=True, eq=False)
class InputModel:
    """One input model of the recipe."""

    reference: ModelReference
    tokenizer: TokenizerFiles
    folder: Path
    shapes: Mapping[str, Shape]
    """Of every stored tensor."""
    dtypes: Mapping[str, str]
    """Of every stored tensor, as torch spells it."""
    tables: Mapping[str, StoredTable]
    """Stored tensors that have a vocabulary axis."""
    checkpoint: Checkpoint | None
    """What the model's class says of it; None where there is none, as for a model with its own code."""
    is_tied: bool
    """Whether its input and output matrix are one."""

    @property
    def rows(self) -> int:
        """Rows of its vocabulary tensors."""
        sizes = {self.shapes[name][table.axis] for name, table in self.tables.items() if not table.is_per_layer}
        return min(sizes)

    @property
    def row_shape(self) -> Shape:
        """Shape of one row of its widest vocabulary tensor."""
        rows = [_without(self.shapes[name], table.axis) for name, table in self.tables.items()]
        return max(rows, key=len)

    @property
    def output_name(self) -> str | None:
        """Its output matrix as stored, which is the input matrix where they are tied; None where there is none."""
        matrices = {name: table for name, table in self.tables.items() if len(self.shapes[name]) > 1}
        outputs = [
            name for name, table in matrices.items() if table.is_output and (table.parameter or not self.checkpoint)
        ]
        if self.is_tied:
            return self.input_name or next(iter(outputs), None)
        return next(iter(outputs), None)

    @property
    def input_name(self) -> str | None:
        """Its input matrix as stored; None where only the output matrix that it is tied to is stored."""
        wanted = self.checkpoint.tables.input if self.checkpoint is not None else None
        if wanted is not None:
            return next((name for name, table in self.tables.items() if table.parameter == wanted), None)
        matrices = [name for name, table in self.tables.items() if len(self.shapes[name]) > 1 and not table.is_output]
        return next(iter(matrices), None)


def look_at(reference: ModelReference, architecture: ModelArchitecture, options: MergeOptions) -> InputModel:
    """Read what is needed of an input model, without loading tensors.

    Raises:
        TokenAdaptError: it is quantised, has no vocabulary tensor, or its tokenizer cannot be read.
    """
    config = reference.config(trust_remote_code=options.trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise TokenAdaptError(
            f"{reference} is a quantised checkpoint; rows cannot be computed from it: use the unquantised model"
        )
    loader = LoaderCache().get(reference)
    folder = Path(loader.index.base_path)
    files = TensorFiles(folder)
    names = _stored_names(reference, files, loader.index.tensor_paths)
    shapes = {name: files.shape(name) for name in names}
    dtypes = {name: files.dtype(name) for name in names}
    checkpoint = _ask_class(reference, folder, shapes, options, is_defined=bool(architecture.architectures))
    tables = dict(checkpoint.stored) if checkpoint else _defined_tables(architecture.all_weights(config), shapes)
    if not any(len(shapes[name]) > 1 for name in tables):
        raise TokenAdaptError(f"{reference} has no tensor with a vocabulary axis that its class or mergekit knows of")
    for name in tables:
        if dtypes[name] not in FLOATS:
            raise TokenAdaptError(
                f"{reference}: the tensor {name} is {dtypes[name]}, no floating-point type to compute rows in"
            )
    path = reference.model
    return InputModel(
        reference=reference,
        tokenizer=load_tokenizer(path.path, revision=path.revision, trust_remote_code=options.trust_remote_code),
        folder=folder,
        shapes=shapes,
        dtypes=dtypes,
        tables=tables,
        checkpoint=checkpoint,
        is_tied=checkpoint.tables.is_tied if checkpoint else is_tied(config),
    )


def check_together(models: list[InputModel]) -> None:
    """Refuse models whose rows cannot be merged.

    Raises:
        TokenAdaptError: their hidden sizes differ.
    """
    shapes = {m.row_shape: m for m in models}
    if len(shapes) > 1:
        listed = ", ".join(f"{m.reference}: {'x'.join(map(str, shape))}" for shape, m in shapes.items())
        raise TokenAdaptError(f"models of different hidden sizes cannot be merged ({listed})")


def check_hashes(model: InputModel) -> None:
    """Refuse a model that looks up hashes of token ids, which are others where tokens have other ids.

    Raises:
        TokenAdaptError: it holds a table for such hashes.
    """
    name = next((name for name in model.shapes if HASHED.search(name)), None)
    if name is not None:
        raise TokenAdaptError(
            f"{model.reference}: {name} is looked up by hashes of token ids, which mean nothing in another vocabulary: "
            "such a model cannot be adapted"
        )


def check_tied(model: InputModel, output: WeightInfo) -> None:
    """Refuse to untie a model whose checkpoint holds an output matrix that its config says is not there.

    Some versions of transformers use such a matrix, others the input's: nobody can tell which one is meant.

    Raises:
        TokenAdaptError: it is there, and is not the input matrix.
    """
    loader = LoaderCache().get(model.reference)
    source = next((name for name in output.tied_names or () if name in model.shapes), None)
    if output.name not in model.shapes or source is None:
        return
    if not torch.equal(loader.get_tensor(output.name), loader.get_tensor(source)):
        raise TokenAdaptError(
            f"untie: {model.reference} says that its matrices are tied, but holds another {output.name}: take that "
            "tensor out, or say tie_word_embeddings: false in its config.json"
        )


def is_tied(config: Any) -> bool:
    """Whether a model's input and output matrix are one, by its config."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


HASHED = re.compile(r"(^|\.)(ngram_embedding|\w*hash\w*embed\w*)\.", re.IGNORECASE)
"""Tables of hashes of one or several token ids: Qwen 4's `ngram_embedding`, BLT's `encoder_hash_tok_embedding`."""
OUTPUT_MATRIX = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|cls\.predictions\.decoder)\.weight$")
"""What architectures call their output matrix, for models that transformers has no class for."""


def names_of(weight: WeightInfo) -> list[str]:
    """All names under which a checkpoint may hold a weight."""
    return [weight.name, *(weight.aliases or ()), *(weight.tied_names or ())]


def _stored_names(reference: ModelReference, files: TensorFiles, listed: Mapping[str, str]) -> list[str]:
    """Names of all tensors, sorted. transformers loads what is in the files, mergekit what is in the index.

    Args:
        listed: the file of each tensor, by mergekit's index.

    Raises:
        TokenAdaptError: a tensor is in one of them only.
    """
    used = set(listed.values())
    held = {name for name in files if files.file(name).name in used}
    for names, where in ((held - listed.keys(), "not in its index"), (listed.keys() - held, "only in its index")):
        if names:
            raise TokenAdaptError(f"{reference}: {listing(names)}: {where} of weights, which does not fit its files")
    return sorted(held)


def _ask_class(
    reference: ModelReference, folder: Path, shapes: Mapping[str, Shape], options: MergeOptions, *, is_defined: bool
) -> Checkpoint | None:
    """What the model's class says; None where there is no class that can be asked.

    Args:
        is_defined: whether mergekit has a definition of the architecture, which will do instead.

    Raises:
        TokenAdaptError: there is neither, or it is not clear what a tensor is.
    """
    reason = "transformers has no class for it"
    try:
        found = read_checkpoint(folder, shapes, trust_remote_code=options.trust_remote_code)
    except CannotBuild as error:
        found, reason = None, str(error)
    except TokenAdaptError as error:
        raise TokenAdaptError(f"{reference}: {error}") from error
    if found is None and not is_defined:
        raise TokenAdaptError(f"{reference}: {reason}, and mergekit has no definition of the architecture")
    if found is None:
        LOG.info("%s: %s; its tensors are known by mergekit's definition only", reference, reason)
    return found


def _defined_tables(known: list[WeightInfo], shapes: Mapping[str, Shape]) -> dict[str, StoredTable]:
    """The stored tables of a model, by mergekit's definition of its architecture."""
    found: dict[str, StoredTable] = {}
    for weight in known:
        name = next((name for name in names_of(weight) if name in shapes), None)
        if weight.vocabulary_axis is not None and name is not None:
            found.setdefault(name, StoredTable(weight.vocabulary_axis, None, bool(OUTPUT_MATRIX.search(name))))
    return found


def listing(names: Iterable[str]) -> str:
    """Some names, of which the first few are shown."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f", ... ({len(ordered)} tensors)" if len(ordered) > 4 else "")


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])
