"""A model on disk as the evaluation sees it: configs, tokenizer, and tensors read one at a time."""

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
    """A model of transformers: its folder, configs and tokenizer."""

    name: str
    """As the user wrote it."""
    folder: Path
    tokenizer: TokenizerFiles
    trust_remote_code: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The part of config.json that describes the language model: `text_config` where there is one."""
        return {**self.config, **(self.config.get("text_config") or {})}

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """The content of generation_config.json; empty where there is none."""
        return read_json(self.folder / "generation_config.json")

    @cached_property
    def transformers_config(self) -> Any:
        """config.json as transformers reads it."""
        from transformers import AutoConfig

        with one_error(f"{self.folder / 'config.json'} cannot be read"):
            return AutoConfig.from_pretrained(str(self.folder), trust_remote_code=self.trust_remote_code)

    @cached_property
    def tensors(self) -> TensorFiles:
        """The weights."""
        return TensorFiles(self.folder)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What the model's class says of the weights.

        Raises:
            TokenAdaptError: transformers has no class for it, or cannot build it.
        """
        if self.is_ensemble:
            raise TokenAdaptError(
                f"{self.name} is an ensemble and holds no weights of its own: name one of its members"
            )
        if find_class(self.folder, trust_remote_code=self.trust_remote_code) is None:
            raise self._not_a_model("it has no class that config.json names")
        shapes = {name: self.tensors.shape(name) for name in self.tensors}
        try:
            found = read_checkpoint(self.folder, shapes, trust_remote_code=self.trust_remote_code)
        except TokenAdaptError as error:
            raise self._not_a_model(str(error)) from error
        assert found is not None
        return found

    def _not_a_model(self, reason: str) -> TokenAdaptError:
        return TokenAdaptError(
            f"{self.name} is not a causal language model, or another one with a vocabulary, that transformers can "
            f"build: {reason}"
        )

    @cached_property
    def vocabulary_tensors(self) -> dict[str, int]:
        """Name of every stored tensor that has a vocabulary axis, to that axis.

        Raises:
            TokenAdaptError: the folder holds no model with a vocabulary, or none of its tensors is known.
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
        """Name of the stored input embedding matrix.

        Raises:
            TokenAdaptError: there is none.
        """
        tables = self.checkpoint
        names = [name for name in self.matrices if tables.stored[name].parameter == tables.tables.input]
        # A tied matrix may be stored under the name of the output matrix only.
        if names or self.matrices:
            return (names or self.matrices)[0]
        raise TokenAdaptError(f"{self.name} has no embedding matrix")

    @cached_property
    def output_matrix(self) -> str | None:
        """Name of the stored output matrix; None where only the input matrix is stored."""
        stored = self.checkpoint.stored
        names = [n for n in self.matrices if stored[n].is_output and stored[n].parameter is not None]
        return names[0] if names and names[0] != self.input_matrix else None

    @property
    def is_ensemble(self) -> bool:
        """Whether it is a lockstep ensemble, which has members in place of tensors."""
        return self.config.get("model_type") == "tokenadapt_lockstep"

    @property
    def num_rows(self) -> int:
        """Rows of the input embedding matrix."""
        if self.is_ensemble:
            return int(self.config["vocab_size"])
        return self.tensors.shape(self.input_matrix)[self.vocabulary_tensors[self.input_matrix]]

    def with_own_rows(self, *, tell: bool = True) -> ModelFolder:
        """The model with a tokenizer that knows no tokens that the model has no rows for.

        Raises:
            TokenAdaptError: there are such tokens that are no added ones.
        """
        tokenizer = self.tokenizer.with_rows(self.num_rows, tell=tell)
        return self if tokenizer is self.tokenizer else replace(self, tokenizer=tokenizer)

    def rows(self, name: str) -> Tensor:
        """A vocabulary tensor with the vocabulary axis first, [rows, ...], as stored."""
        return self.tensors.read(name).movedim(self.vocabulary_tensors[name], 0)


def open_model(name: str, *, trust_remote_code: bool = False) -> ModelFolder:
    """Find a model folder or fetch a hub id.

    Raises:
        TokenAdaptError: there is no model, no config.json, or no readable tokenizer at `name`.
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
        if not list(folder.glob("*.safetensors")):  # many repositories hold their weights twice
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "*.bin"]))
        return folder
    except Exception as error:  # network, validation, permissions: the library has dozens of kinds
        reason = first_line(error)
        raise TokenAdaptError(
            f"no model found at {name!r}: it is not a folder, and could not be fetched as a hub id ({reason})"
        ) from error


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names of the dtypes that weights usually have, and torch's."""


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a folder, safetensors or PyTorch files, sharded or not; read when asked for."""

    folder: Path
    _opened: dict[Path, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _file_of(self) -> dict[str, Path]:
        files = self._weight_files()
        found: dict[str, Path] = {}
        for file in files:
            for name in self._open(file).keys():  # noqa: SIM118
                found[name] = file
        return dict(sorted(found.items()))

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it where the format allows."""
        opened = self._open(self._file_of[name])
        return tuple(opened[name].shape if isinstance(opened, dict) else opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, without reading it where the format allows, as torch spells it: ``float32``."""
        opened = self._open(self._file_of[name])
        if isinstance(opened, dict):
            return str(opened[name].dtype).removeprefix("torch.")
        stored = opened.get_slice(name).get_dtype()
        return _DTYPES.get(stored, str(stored).lower())

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """A tensor, as stored, on the CPU."""
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
                    self._opened[file] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise TokenAdaptError(f"{file} cannot be read: {first_line(error)}") from error
        return self._opened[file]


def check_names(files: Iterable[Any]) -> None:
    """Refuse an index of weights that leads out of the model's folder.

    Raises:
        TokenAdaptError: a name is not that of a file below it.
    """
    for file in files:
        if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
            raise TokenAdaptError(f"the index of weights names the file {file!r}, which is not in the model's folder")


def context_length(folder: ModelFolder) -> int | None:
    """Positions that the model was made for, as its config says; None where it does not."""
    config = folder.text_config
    return next((int(config[k]) for k in ("max_position_embeddings", "n_positions") if config.get(k)), None)
