"""A model on disk: its configs, its tokenizer, and its tensors, which are read one at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.models import Checkpoint, find_class, read_checkpoint
from mergekit_tokenadapt.storage.input_files import check_plain
from mergekit_tokenadapt.storage.whole_files import check_fetched, check_listed, what_is_there
from mergekit_tokenadapt.tokenizer.chat_templates import NAMED_FOLDER
from mergekit_tokenadapt.tokenizer.files import TOKENIZER_FILES, TokenizerFiles, load_tokenizer, read_json


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a transformers model, with its configs and tokenizer."""

    name: str
    """The name that the user wrote."""
    folder: Path
    tokenizer: TokenizerFiles
    trust_remote_code: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The settings of the language model: config.json, overridden by its `text_config` if there is one."""
        return {**self.config, **(self.config.get("text_config") or {})}

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """The content of generation_config.json; empty if the file does not exist."""
        return read_json(self.folder / "generation_config.json")

    @cached_property
    def transformers_config(self) -> Any:
        """The config as a transformers object.

        Raises:
            TokenAdaptError: transformers cannot read it.
        """
        from transformers import AutoConfig

        with one_error(f"{self.folder / 'config.json'} cannot be read"):
            return AutoConfig.from_pretrained(str(self.folder), trust_remote_code=self.trust_remote_code)

    @cached_property
    def tensors(self) -> TensorFiles:
        """The tensors of the folder, read on demand."""
        return TensorFiles(self.folder)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The description of the checkpoint by the model's class.

        Raises:
            TokenAdaptError: the folder is an ensemble, or transformers has no class for the model or cannot build it.
        """
        if self.is_ensemble:
            raise TokenAdaptError(
                f"{self.name} is an ensemble and holds no weights of its own: name one of its members"
            )
        if find_class(self.folder, trust_remote_code=self.trust_remote_code) is None:
            raise self._not_a_model("transformers has no class that config.json names")
        shapes = {name: self.tensors.shape(name) for name in self.tensors}
        try:
            found = read_checkpoint(self.folder, shapes, trust_remote_code=self.trust_remote_code)
        except TokenAdaptError as error:
            raise self._not_a_model(str(error)) from error
        assert found is not None
        return found

    def _not_a_model(self, reason: str) -> TokenAdaptError:
        return TokenAdaptError(
            f"{self.name} is not a language model, or another model with a vocabulary, that transformers can build: "
            f"{reason}"
        )

    @cached_property
    def vocabulary_tensors(self) -> dict[str, int]:
        """Stored name -> vocabulary axis of every tensor that has one.

        Raises:
            TokenAdaptError: the model has no vocabulary, or the folder holds none of its vocabulary tensors.
        """
        found = {name: table.axis for name, table in self.checkpoint.stored.items()}
        if not found:
            raise TokenAdaptError(
                f"{self.name}: none of its tensors is one of the vocabulary tensors that its config "
                f"asks for ({', '.join(self.checkpoint.tables.axes) or 'none'})"
            )
        return found

    @cached_property
    def matrices(self) -> list[str]:
        """Names of the stored two-dimensional vocabulary tensors."""
        return [name for name in self.vocabulary_tensors if len(self.tensors.shape(name)) == 2]

    @cached_property
    def input_matrix(self) -> str:
        """Name of the stored input matrix (embeddings).

        Raises:
            TokenAdaptError: the folder holds no vocabulary matrix.
        """
        tables = self.checkpoint
        names = [name for name in self.matrices if tables.stored[name].parameter == tables.tables.input]
        # A checkpoint may store a tied matrix only under the name of the output matrix.
        if names or self.matrices:
            return (names or self.matrices)[0]
        raise TokenAdaptError(f"{self.name} has no embedding matrix")

    @cached_property
    def output_matrix(self) -> str | None:
        """Name of the stored output matrix (`lm_head`); None if only the input matrix is stored, as in tied models."""
        stored = self.checkpoint.stored
        names = [n for n in self.matrices if stored[n].is_output and stored[n].parameter is not None]
        return names[0] if names and names[0] != self.input_matrix else None

    @property
    def is_ensemble(self) -> bool:
        """Whether the folder is a lockstep ensemble, which holds member models instead of tensors."""
        return self.config.get("model_type") == "tokenadapt_lockstep"

    @property
    def num_rows(self) -> int:
        """Number of rows of the input matrix."""
        if self.is_ensemble:
            return int(self.config["vocab_size"])
        return self.tensors.shape(self.input_matrix)[self.vocabulary_tensors[self.input_matrix]]

    def with_own_rows(self, *, tell: bool = True) -> ModelFolder:
        """Return the model with its tokenizer reduced to the tokens that have rows; see `TokenizerFiles.with_rows`.

        Raises:
            TokenAdaptError: an ordinary token has no row.
        """
        tokenizer = self.tokenizer.with_rows(self.num_rows, tell=tell)
        return self if tokenizer is self.tokenizer else replace(self, tokenizer=tokenizer)

    def rows(self, name: str) -> Tensor:
        """Read a vocabulary tensor, with the vocabulary axis first, [rows, ...], in the stored dtype."""
        return self.tensors.read(name).movedim(self.vocabulary_tensors[name], 0)


def open_model(name: str, *, trust_remote_code: bool = False) -> ModelFolder:
    """Open a model folder; a hub id is downloaded.

    Raises:
        TokenAdaptError: `name` is no model, or has no config.json or no readable tokenizer.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise TokenAdaptError(f"there is no model folder {name!r}")
        folder = _download(name)
    check_plain(folder)
    if not (folder / "config.json").is_file():
        raise TokenAdaptError(f"{name!r} is not a model folder: it has no config.json{what_is_there(folder)}")
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    return ModelFolder(name, folder, tokenizer, trust_remote_code)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*TOKENIZER_FILES, f"{NAMED_FOLDER}/*.jinja", "*.json", "*.safetensors", "*.py", "tokenadapt.plan*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        # Many repositories hold their weights in both formats. The pickled ones are fetched only if needed.
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "*.bin"]))
        return folder
    except Exception as error:  # the library raises dozens of types for network, names and permissions
        reason = first_line(error)
        raise TokenAdaptError(
            f"no model found at {name!r}: it is not a folder, and could not be fetched as a hub id ({reason})"
        ) from error


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' name of a dtype -> torch's name, for the usual dtypes of weights."""


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a folder in safetensors or PyTorch files, sharded or not. A tensor is read on demand."""

    folder: Path
    _opened: dict[Path, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _file_of(self) -> dict[str, Path]:
        files = self._weight_files()
        found: dict[str, Path] = {}
        for file in files:
            for name in self._open(file).keys():  # noqa: SIM118 - safe_open's object cannot be iterated
                found[name] = file
        return dict(sorted(found.items()))

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor. A safetensors file need not be read for it."""
        opened = self._open(self._file_of[name])
        return tuple(opened[name].shape if isinstance(opened, dict) else opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return torch's name of a tensor's dtype (``float32``). A safetensors file need not be read for it."""
        opened = self._open(self._file_of[name])
        if isinstance(opened, dict):
            return str(opened[name].dtype).removeprefix("torch.")
        stored = opened.get_slice(name).get_dtype()
        return _DTYPES.get(stored, str(stored).lower())

    def file(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """Read a tensor in its stored dtype, on the CPU."""
        opened = self._open(self._file_of[name])
        tensor: Tensor = opened[name] if isinstance(opened, dict) else opened.get_tensor(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def _weight_files(self) -> list[Path]:
        for index, pattern in (
            ("model.safetensors.index.json", "model*.safetensors"),
            ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
        ):
            listed = read_json(self.folder / index).get("weight_map")
            if listed and not isinstance(listed, Mapping):
                raise TokenAdaptError(f"{self.folder / index}: weight_map is not an object")
            if listed:
                check_names(listed.values())
                check_listed(self.folder, index)
            files = sorted(set(listed.values())) if listed else [f.name for f in sorted(self.folder.glob(pattern))]
            if files:
                return [self.folder / file for file in files]
        raise TokenAdaptError(
            f"{self.folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin"
            f"{what_is_there(self.folder)}"
        )

    def _open(self, file: Path) -> Any:
        if file not in self._opened:
            if file.is_file():
                check_fetched(file)
            try:
                if file.suffix == ".safetensors":
                    self._opened[file] = safe_open(str(file), framework="pt")
                else:
                    # `weights_only` keeps a pickle from running code.
                    self._opened[file] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise TokenAdaptError(f"{file} cannot be read: {first_line(error)}") from error
        return self._opened[file]


def check_names(files: Iterable[Any]) -> None:
    """Refuse an index of shards that names files outside the model's folder.

    Args:
        files: the file names in the index, of any type.

    Raises:
        TokenAdaptError: a name is absolute, leads out of the folder, or is not text.
    """
    for file in files:
        if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
            raise TokenAdaptError(f"the index of weights names the file {file!r}, which is not in the model's folder")


def context_length(folder: ModelFolder) -> int | None:
    """Return the number of positions that the model's config states; None if it states none."""
    config = folder.text_config
    return next((int(config[k]) for k in ("max_position_embeddings", "n_positions") if config.get(k)), None)
