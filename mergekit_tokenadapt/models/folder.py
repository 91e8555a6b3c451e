"""A model on disk: its configs, its tokenizer, and the description of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.models import Checkpoint, find_class, read_checkpoint
from mergekit_tokenadapt.models.tensor_files import TensorFiles
from mergekit_tokenadapt.storage.input_files import check_plain, local_path
from mergekit_tokenadapt.storage.whole_files import what_is_there
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


def open_model(name: str, *, trust_remote_code: bool = False, tokenizer_in: Path | None = None) -> ModelFolder:
    """Open a model folder; a hub id is downloaded.

    Args:
        name: a folder or a hub id.
        trust_remote_code: whether the model's own code may run.
        tokenizer_in: a folder with the model's tokenizer; None: the model's own.

    Raises:
        TokenAdaptError: `name` is no model, or has no config.json or no readable tokenizer.
    """
    folder = local_path(name)
    if not folder.is_dir():
        if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise TokenAdaptError(f"there is no model folder {name!r}")
        folder = _download(name)
    check_plain(folder)
    if not (folder / "config.json").is_file():
        raise TokenAdaptError(f"{name!r} is not a model folder: it has no config.json{what_is_there(folder)}")
    tokenizer = load_tokenizer(str(tokenizer_in or folder), trust_remote_code=trust_remote_code)
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


def context_length(folder: ModelFolder) -> int | None:
    """Return the number of positions that the model's config states; None if it states none."""
    config = folder.text_config
    return next((int(config[k]) for k in ("max_position_embeddings", "n_positions") if config.get(k)), None)
