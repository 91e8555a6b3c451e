"""The tensors of a folder in safetensors or PyTorch files, read one at a time."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.storage.whole_files import check_fetched, check_listed, what_is_there
from mergekit_tokenadapt.tokenizer.files import read_json

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' name of a dtype -> torch's name, for the usual dtypes of weights."""
WEIGHT_FILE = re.compile(r"(model|pytorch_model|consolidated).*\.(safetensors|bin)(\.index\.json)?")
"""Matches the names of files of weights. Others of the same format, such as a student's token map, are not weights."""


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
        """Return the files that transformers loads: one file or the shards of an index, safetensors before PyTorch.

        Raises:
            TokenAdaptError: there are none, or a file stands beside an index of others. transformers then loads the
                file, and mergekit what the index lists.
        """
        for whole in ("model.safetensors", "pytorch_model.bin"):
            listed = self._listed(f"{whole}.index.json")
            if listed and (self.folder / whole).exists() and set(listed) != {whole}:
                raise TokenAdaptError(
                    f"{self.folder} holds two sets of weights: {whole}, and the {len(listed)} files that "
                    f"{whole}.index.json lists. transformers loads the first and mergekit the second: "
                    "remove the one that is not meant"
                )
            stem, suffix = whole.split(".")
            files = listed or ([whole] if (self.folder / whole).exists() else [])
            files = files or [file.name for file in sorted(self.folder.glob(f"{stem}*.{suffix}"))]
            if files:
                return [self.folder / file for file in files]
        raise TokenAdaptError(
            f"{self.folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin"
            f"{what_is_there(self.folder)}"
        )

    def _listed(self, index: str) -> list[str]:
        """Return the names of the files that an index of shards lists, sorted; empty if there is no index."""
        listed = read_json(self.folder / index).get("weight_map")
        if not listed:
            return []
        if not isinstance(listed, Mapping):
            raise TokenAdaptError(f"{self.folder / index}: weight_map is not an object")
        check_names(listed.values())
        check_listed(self.folder, index)
        return sorted(set(listed.values()))

    def _open(self, file: Path) -> Any:
        if file not in self._opened:
            if file.is_file():
                check_fetched(file)
            try:
                if file.suffix == ".safetensors":
                    self._opened[file] = safe_open(str(file), framework="pt")
                else:
                    # `weights_only` keeps a pickle from running code. Files from before torch 1.6 cannot be mapped.
                    is_zip = zipfile.is_zipfile(file)
                    self._opened[file] = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
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
