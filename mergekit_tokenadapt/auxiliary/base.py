"""The contract of an auxiliary embedding space, and how a recipe names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt import registry
from mergekit_tokenadapt.errors import TokenAdaptError


class AuxiliarySpace(ABC):
    """A space in which texts with similar meaning or form are close.

    Implementations register under the entry-point group ``mergekit_tokenadapt.auxiliary``. Making
    one must be cheap and must fail with a `TokenAdaptError` where it can never work (package not
    installed, folder missing): it is made before the first slow step.
    """

    @classmethod
    @abstractmethod
    def from_argument(cls, argument: str | None) -> AuxiliarySpace:
        """Make the space from what follows the colon in ``auxiliary: name:argument`` (None: nothing)."""

    @abstractmethod
    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Vectors of distinct texts, float32 [len(texts), dimensions], on the CPU.

        They need not be normalised. It is called once with all texts of both vocabularies, sorted, so
        that a space may fit itself to them.
        """


def find_auxiliary(name: str) -> AuxiliarySpace:
    """The auxiliary space that a recipe names.

    ``ngram`` or another registered name; ``NAME:ARGUMENT`` for a registered name that takes one; else
    a folder or hub id, whose files say what it is (hub ids are taken for sentence-transformers).

    Raises:
        TokenAdaptError: unknown name, missing folder, or a package that is not installed.
    """
    head, _, argument = name.partition(":")
    if head in registry.names(registry.AUXILIARY):
        return _load(head).from_argument(argument or None)
    if Path(name).is_dir():
        return _load(_kind_of_folder(Path(name))).from_argument(name)
    if "/" in name and not Path(name).is_absolute() and not name.startswith("."):
        return _load("sentence-transformers").from_argument(name)
    known = ", ".join(registry.names(registry.AUXILIARY))
    raise TokenAdaptError(f"unknown auxiliary {name!r}: not one of {known}, not a folder, not a hub id")


def _load(name: str) -> type[AuxiliarySpace]:
    return registry.load(registry.AUXILIARY, name, AuxiliarySpace)


def _kind_of_folder(folder: Path) -> str:
    if (folder / "modules.json").is_file():
        return "sentence-transformers"
    config = folder / "config.json"
    if config.is_file() and "model2vec" in config.read_text(encoding="utf-8"):
        return "model2vec"
    if config.is_file():
        return "transformer"
    raise TokenAdaptError(
        f"auxiliary folder {str(folder)!r} holds no embedding model (no config.json, no modules.json)"
    )
