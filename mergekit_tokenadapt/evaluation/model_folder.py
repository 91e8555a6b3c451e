"""A model on disk as the evaluation sees it: configs, tokenizer, and tensors read one at a time."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergekit_tokenadapt.chat_templates import NAMED_FOLDER
from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.input_files import check_plain
from mergekit_tokenadapt.tokenizer_files import TOKENIZER_FILES, TokenizerFiles, load_tokenizer, read_json


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
    def architecture(self) -> VocabularyParameters:
        """What the model's class says of its vocabulary parameters."""
        return vocabulary_parameters(self)

    @cached_property
    def _parameter_of(self) -> dict[str, str]:
        """Stored vocabulary tensor to the parameter of the model's class that it is loaded into."""
        known = self.architecture
        by_name = {n: p for n in self.tensors for p in known.names if _same_parameter(n, p)}
        found = {n: p for n, p in by_name.items() if p in known.shapes}
        # Some classes rename tensors on loading (GPT-NeoX's embed_out): a vocabulary parameter that is
        # left over belongs to the one tensor left over that has its shape, but for the number of rows.
        for parameter in known.shapes.keys() - found.values():
            fitting = [n for n in self.tensors if n not in by_name and known.fits(parameter, self.tensors.shape(n))]
            if len(fitting) == 1:
                found[fitting[0]] = parameter
        return dict(sorted(found.items()))

    @cached_property
    def vocabulary_tensors(self) -> dict[str, int]:
        """Name of every stored tensor that has a vocabulary axis, to that axis.

        Raises:
            TokenAdaptError: the folder holds no causal language model, or none of its tensors is known.
        """
        found = {name: self.architecture.axes[parameter] for name, parameter in self._parameter_of.items()}
        if not found:
            raise TokenAdaptError(
                f"{self.name}: none of its tensors is one of the vocabulary tensors that its config "
                f"asks for ({', '.join(self.architecture.axes) or 'none'})"
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
        names = [name for name in self.matrices if self._parameter_of[name] == self.architecture.input]
        # A tied matrix may be stored under the name of the output matrix only.
        if names or self.matrices:
            return (names or self.matrices)[0]
        raise TokenAdaptError(f"{self.name} has no embedding matrix")

    @cached_property
    def output_matrix(self) -> str | None:
        """Name of the stored output matrix; None where only the input matrix is stored."""
        names = [n for n in self.matrices if self._parameter_of[n] == self.architecture.output]
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
        raise TokenAdaptError(f"{name!r} is not a model folder: it has no config.json")
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
            files = sorted(set(listed.values())) if listed else [f.name for f in sorted(self.folder.glob(pattern))]
            if files:
                return [self.folder / file for file in files]
        raise TokenAdaptError(f"{self.folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin")

    def _open(self, file: Path) -> Any:
        if file not in self._opened:
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


@dataclass(frozen=True)
class VocabularyParameters:
    """The parameters of a model class that have a vocabulary axis."""

    names: tuple[str, ...]
    """All parameters of the class."""
    axes: Mapping[str, int]
    """Vocabulary parameter to that axis."""
    shapes: Mapping[str, tuple[int, ...]]
    """Vocabulary parameter to its shape."""
    input: str
    """The parameter of the input embedding."""
    output: str | None
    """The parameter of the output matrix, tied or not."""

    def fits(self, parameter: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor could be that parameter, the number of rows aside."""
        axis, wanted = self.axes[parameter], self.shapes[parameter]
        return len(shape) == len(wanted) and all(
            a == b for n, (a, b) in enumerate(zip(shape, wanted, strict=True)) if n != axis
        )


def vocabulary_parameters(model: ModelFolder) -> VocabularyParameters:
    """Ask the model's class which of its parameters have a vocabulary axis.

    It is built twice without memory (on the meta device), the second time with one more row: the axes
    that grew are vocabulary axes. Works for any architecture, biases and per-layer embeddings included.

    Raises:
        TokenAdaptError: transformers does not know it as a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if model.is_ensemble:
        raise TokenAdaptError(f"{model.name} is an ensemble and holds no weights of its own: name one of its members")

    def build(config: Any) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)

    try:
        config = AutoConfig.from_pretrained(str(model.folder), trust_remote_code=model.trust_remote_code)
        config.get_text_config().pad_token_id = None  # an id beyond the rows would stop the class from being built
        larger = copy.deepcopy(config)
        larger.get_text_config().vocab_size += 1
        small, large = build(config), build(larger)
    except Exception as error:  # the class's own code runs here, and may raise anything
        reason = first_line(error)[:200]
        raise TokenAdaptError(
            f"{model.name} is not a causal language model that transformers can build: {reason}"
        ) from error
    parameters = dict(small.named_parameters(remove_duplicate=False))
    larger_shapes = {name: p.shape for name, p in large.named_parameters(remove_duplicate=False)}
    axes = {}
    for name, parameter in parameters.items():
        grown = [axis for axis, size in enumerate(parameter.shape) if larger_shapes[name][axis] != size]
        if grown:
            axes[name] = grown[0]
    modules = {id(module): f"{name}.weight" for name, module in small.named_modules()}
    return VocabularyParameters(
        names=tuple(parameters),
        axes=axes,
        shapes={name: tuple(parameters[name].shape) for name in axes},
        input=modules[id(small.get_input_embeddings())],
        output=modules.get(id(small.get_output_embeddings())),
    )


def _same_parameter(stored: str, parameter: str) -> bool:
    """Checkpoints leave out or add the name of the wrapping module (``model.``, ``transformer.``)."""
    return stored == parameter or stored.endswith(f".{parameter}") or parameter.endswith(f".{stored}")
