"""Examine the input models before the first slow step: tokenizers, shapes, and reasons why a merge cannot work."""

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
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_tokenadapt.auxiliary.base import path_of_auxiliary
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models import CannotBuild, Checkpoint, StoredTable, read_checkpoint
from mergekit_tokenadapt.models.classes import Shape
from mergekit_tokenadapt.models.tensor_files import TensorFiles
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

LOG = logging.getLogger(__name__)

FLOATS = {"float64", "float32", "float16", "bfloat16"}
"""Dtypes that rows can be computed in."""


@dataclass(frozen=True, eq=False)
class InputModel:
    """One input model of the recipe."""

    reference: ModelReference
    """The model's name in the recipe."""
    tokenizer: TokenizerFiles
    """The model's tokenizer."""
    folder: Path
    """The folder with its weights. For a model with an adapter (``BASE+ADAPTER``), mergekit has made it."""
    own_files: Path
    """The folder with its other files: tokenizer, processors, model card."""
    shapes: Mapping[str, Shape]
    """Name of each stored tensor -> its shape."""
    dtypes: Mapping[str, str]
    """Name of each stored tensor -> its dtype, spelled as in torch."""
    tables: Mapping[str, StoredTable]
    """Name -> description of each stored tensor that has a vocabulary axis."""
    checkpoint: Checkpoint | None
    """What the model's class in transformers tells about the tensors. None if there is no such class, for example for a
    model with its own code.
    """
    is_tied: bool
    """Whether its input and output matrix are one tensor."""

    @property
    def rows(self) -> int:
        """Number of rows of its vocabulary tensors."""
        sizes = {self.shapes[name][table.axis] for name, table in self.tables.items() if not table.is_per_layer}
        return min(sizes)

    @property
    def row_shape(self) -> Shape:
        """Shape of one row of the vocabulary tensor whose rows have the most axes."""
        rows = [_without(self.shapes[name], table.axis) for name, table in self.tables.items()]
        return max(rows, key=len)

    @property
    def output_name(self) -> str | None:
        """Name of the stored output matrix, or None. For tied models this is the input matrix."""
        matrices = {name: table for name, table in self.tables.items() if len(self.shapes[name]) > 1}
        outputs = [
            name for name, table in matrices.items() if table.is_output and (table.parameter or not self.checkpoint)
        ]
        if self.is_tied:
            return self.input_name or next(iter(outputs), None)
        return next(iter(outputs), None)

    @property
    def input_name(self) -> str | None:
        """Name of the stored input matrix. It is None if only the output matrix that it is tied to is stored."""
        wanted = self.checkpoint.tables.input if self.checkpoint is not None else None
        if wanted is not None:
            return next((name for name, table in self.tables.items() if table.parameter == wanted), None)
        matrices = [name for name, table in self.tables.items() if len(self.shapes[name]) > 1 and not table.is_output]
        return next(iter(matrices), None)

    def is_matrix(self, table: StoredTable) -> bool:
        """Return whether a stored table is the input or the output matrix."""
        tables = self.checkpoint.tables if self.checkpoint is not None else None
        return tables is not None and table.parameter in (tables.input, tables.output)


def references_of(config: MergeConfiguration) -> list[ModelReference]:
    """Return the input models of a recipe: the base model first, then the others in the order of the recipe."""
    listed = [config.base_model] if config.base_model else []
    listed += [m.model for m in config.models or ()]
    listed += [source.model for s in config.slices or () for source in s.sources]
    for module in (config.modules or {}).values():
        listed += [m.model for m in module.models or ()]
        listed += [source.model for s in module.slices or () for source in s.sources]
    return list(dict.fromkeys(listed))


def read_by(config: MergeConfiguration) -> tuple[list[str], list[str]]:
    """Return what a recipe reads: (models, tokenizers and files; texts). Values that are no path are left out."""
    inputs = []
    for reference in config.referenced_models():
        inputs += [str(part.path) for part in (reference.model, reference.lora) if part is not None]
    source = getattr(config.tokenizer, "source", None)
    if isinstance(source, ModelReference):
        inputs.append(str(source.model.path))
    adapt: AdaptConfig | None = getattr(config.tokenizer, "adapt", None)
    if adapt is None:
        return inputs, []
    inputs += [adapt.chat_template] if adapt.chat_template not in ("target", "base") else []
    inputs += [adapt.glossary] if adapt.glossary is not None else []
    inputs += [path] if (path := path_of_auxiliary(adapt.auxiliary)) is not None else []
    texts = [adapt.calibration_text, adapt.extend.text if adapt.extend else None, *adapt.make_method().files.values()]
    return inputs, [text for text in texts if text not in (None, "default")]


def look_at(reference: ModelReference, architecture: ModelArchitecture, options: MergeOptions) -> InputModel:
    """Read tokenizer, config, and tensor names and shapes of an input model. No tensor is loaded.

    Raises:
        TokenAdaptError: the model is quantised, has no vocabulary tensor or one that is not floating-point, or its
            tokenizer cannot be read.
    """
    config = reference.config(trust_remote_code=options.trust_remote_code)
    # Quantised tensors are packed integers with scales in other tensors. mergekit reads them as they are stored.
    if getattr(config, "quantization_config", None):
        raise TokenAdaptError(
            f"{reference} is a quantised checkpoint, from which rows cannot be computed: use the unquantised model"
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
                f"{reference}: rows cannot be computed in the dtype {dtypes[name]} of the tensor {name}; use a model "
                f"in {', '.join(sorted(FLOATS))}"
            )
    path = reference.model
    return InputModel(
        reference=reference,
        tokenizer=load_tokenizer(path.path, revision=path.revision, trust_remote_code=options.trust_remote_code),
        folder=folder,
        own_files=_own_files(reference, folder),
        shapes=shapes,
        dtypes=dtypes,
        tables=tables,
        checkpoint=checkpoint,
        is_tied=checkpoint.tables.is_tied if checkpoint else is_tied(config),
    )


def check_together(models: list[InputModel]) -> None:
    """Check that the rows of several models can be merged.

    Raises:
        TokenAdaptError: the hidden sizes differ.
    """
    shapes = {m.row_shape: m for m in models}
    if len(shapes) > 1:
        listed = ", ".join(f"{m.reference}: {'x'.join(map(str, shape))}" for shape, m in shapes.items())
        raise TokenAdaptError(f"models of different hidden sizes cannot be merged ({listed})")


def check_hashes(model: InputModel) -> None:
    """Check that a model does not look up hashes of token ids. New ids would give other hashes.

    Raises:
        TokenAdaptError: the model has a table for such hashes.
    """
    name = next((name for name in model.shapes if HASHED.search(name)), None)
    if name is not None:
        raise TokenAdaptError(
            f"{model.reference}: {name} is looked up by hashes of token ids, which mean nothing in another vocabulary: "
            "such a model cannot be adapted"
        )


def check_tied(model: InputModel, output: WeightInfo) -> None:
    """Check a model that is to be untied: its checkpoint must not have another output matrix than its config promises.

    Some versions of transformers use such a stored output matrix, others use the input matrix. Nobody can tell which
    one is meant.

    Raises:
        TokenAdaptError: the config says that the matrices are tied, and the stored output matrix differs from the input
            matrix.
    """
    if not model.is_tied:  # another model of the merge, which has two matrices anyway
        return
    loader = LoaderCache().get(model.reference)
    source = next((name for name in output.tied_names or () if name in model.shapes), None)
    if output.name not in model.shapes or source is None:
        return
    if not torch.equal(loader.get_tensor(output.name), loader.get_tensor(source)):
        raise TokenAdaptError(
            f"untie: the config of {model.reference} says that its matrices are tied, but {output.name} is stored "
            "with other values: remove that tensor, or set tie_word_embeddings to false in config.json"
        )


def is_tied(config: Any) -> bool:
    """Return whether a model's input and output matrix are one tensor, according to its config."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


HASHED = re.compile(r"(^|\.)(ngram_embedding|\w*hash\w*embed\w*)\.", re.IGNORECASE)
"""Matches tables that are looked up by hashes of token ids.

Examples are Qwen 4's `ngram_embedding` and BLT's `encoder_hash_tok_embedding`.
"""
OUTPUT_MATRIX = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|cls\.predictions\.decoder)\.weight$")
"""Matches the output matrix's name in models for which transformers has no class."""


def names_of(weight: WeightInfo) -> list[str]:
    """Return all names under which a checkpoint may store a weight."""
    return [weight.name, *(weight.aliases or ()), *(weight.tied_names or ())]


def _own_files(reference: ModelReference, folder: Path) -> Path:
    """Return the folder of a model's tokenizer, processors and card. mergekit merges an adapter into another one."""
    if reference.lora is None:
        return folder
    return Path(LoaderCache().get(ModelReference(model=reference.model)).index.base_path)


def _stored_names(reference: ModelReference, files: TensorFiles, listed: Mapping[str, str]) -> list[str]:
    """Return the names of all stored tensors, sorted.

    transformers loads the tensors that are in the files, and mergekit those in the index. They have to be the same.

    Args:
        listed: the file of each tensor, from mergekit's index.

    Raises:
        TokenAdaptError: a tensor is only in a file or only in the index.
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
    """Return what the model's class in transformers tells about its tensors, or None if there is no such class.

    Args:
        is_defined: whether mergekit has a definition of the architecture, which can replace the class.

    Raises:
        TokenAdaptError: there is neither a class nor a definition, or the role of a tensor is unclear.
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
        LOG.info("%s: %s; only mergekit's definition describes its tensors", reference, reason)
    return found


def _defined_tables(known: list[WeightInfo], shapes: Mapping[str, Shape]) -> dict[str, StoredTable]:
    """Return the stored vocabulary tensors of a model according to mergekit's definition of its architecture."""
    found: dict[str, StoredTable] = {}
    for weight in known:
        name = next((name for name in names_of(weight) if name in shapes), None)
        if weight.vocabulary_axis is not None and name is not None:
            found.setdefault(name, StoredTable(weight.vocabulary_axis, None, bool(OUTPUT_MATRIX.search(name))))
    return found


def listing(names: Iterable[str]) -> str:
    """List the first four names, and the number of all names if there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f", ... ({len(ordered)} tensors)" if len(ordered) > 4 else "")


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])
