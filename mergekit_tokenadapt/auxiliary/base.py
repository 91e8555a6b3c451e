"""The contract of an auxiliary embedding space, and how a recipe names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.terminal.plain_words import did_you_mean


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
    kind, argument = _kind_and_argument(name)
    return _load(kind).from_argument(argument)


def check_auxiliary_name(name: str) -> None:
    """Find out whether a recipe's auxiliary space can be meant at all, though it may not be needed.

    Raises:
        TokenAdaptError: unknown name, or missing folder.
    """
    _kind_and_argument(name)


def _kind_and_argument(name: str) -> tuple[str, str | None]:
    """The registered name of a space, and its argument."""
    head, colon, argument = name.partition(":")
    known = entry_points.names(entry_points.AUXILIARY)
    if head in known:
        return head, argument or None
    if Path(name).is_dir():
        return _kind_of_folder(Path(name)), name
    if "/" in name and not colon and not Path(name).is_absolute() and not name.startswith("."):
        return "sentence-transformers", name
    raise TokenAdaptError(
        f"unknown auxiliary {name!r}: not one of {', '.join(known)}, not a folder, not a hub id"
        + did_you_mean(head, known)
    )


def _load(name: str) -> type[AuxiliarySpace]:
    return entry_points.load(entry_points.AUXILIARY, name, AuxiliarySpace)


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
