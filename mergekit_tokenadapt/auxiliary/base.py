"""The base class of auxiliary spaces, and the names by which a recipe chooses one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.terminal.plain_words import did_you_mean
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token


class OwnedToken(NamedTuple):
    """A token and the tokenizer that it belongs to."""

    tokenizer: TokenizerFiles
    token: Token


class AuxiliarySpace(ABC):
    """An embedding space in which texts of similar meaning or form are near each other.

    Implementations register under the entry-point group ``mergekit_tokenadapt.auxiliary``. A space is constructed
    before the first slow step of a run. Construction must therefore be fast, and must raise a `TokenAdaptError` if the
    space can never work, for instance because a package or a folder is missing.
    """

    @classmethod
    @abstractmethod
    def from_argument(cls, argument: str | None) -> AuxiliarySpace:
        """Construct the space from a recipe's ``auxiliary: name:argument``.

        Args:
            argument: the text after the colon; None if there is no colon.

        Raises:
            TokenAdaptError: the argument is wrong or missing, or a package is not installed.
        """

    @abstractmethod
    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Embed distinct texts.

        It is called once with the sorted texts of all tokens of both vocabularies, so that a space may fit itself to
        them.

        Args:
            texts: the texts.
            device: where to compute.
            quiet: show no progress.

        Returns:
            One vector per text, float32 [len(texts), dimensions], on the CPU. Vectors need not be normalised.
        """

    def embed_tokens(self, tokens: Sequence[OwnedToken], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Embed tokens of two vocabularies. Most spaces look at their texts only, by `embed`.

        It is called once, with tokens whose labels are distinct and sorted.

        Args:
            tokens: the tokens.
            device: where to compute.
            quiet: show no progress.

        Returns:
            As `embed`; zeros for a token that the space knows nothing about.
        """
        return self.embed([each.token.label for each in tokens], device=device, quiet=quiet)


def find_auxiliary(name: str) -> AuxiliarySpace:
    """Construct the auxiliary space that a recipe names.

    A name is a registered name (``ngram``), a registered name with an argument (``NAME:ARGUMENT``), a folder, a file or
    a hub id. The files of a folder decide which space reads it. A file holds word vectors. A hub id is read by
    sentence-transformers.

    Raises:
        TokenAdaptError: the name is unknown, the folder is missing, or a package is not installed.
    """
    kind, argument = _kind_and_argument(name)
    return _load(kind).from_argument(argument)


def check_auxiliary_name(name: str) -> None:
    """Check the name of a recipe's auxiliary space without constructing it.

    A method that uses no auxiliary space still gets this check, so that a misspelt name is not ignored.

    Raises:
        TokenAdaptError: the name is unknown, or the folder is missing.
    """
    _kind_and_argument(name)


def path_of_auxiliary(name: str) -> str | None:
    """Return the path or hub id in a recipe's name of an auxiliary space; None if it has none.

    >>> path_of_auxiliary("ngram"), path_of_auxiliary("wordvectors:cc.de.300.vec,words=1000")
    (None, 'cc.de.300.vec')

    Raises:
        TokenAdaptError: the name is unknown, or the folder is missing.
    """
    _, argument = _kind_and_argument(name)
    return None if argument is None else argument.partition(",words=")[0]


def _kind_and_argument(name: str) -> tuple[str, str | None]:
    """Return the registered name of the space that a recipe's name means, and its argument."""
    head, colon, argument = name.partition(":")
    known = entry_points.names(entry_points.AUXILIARY)
    if head in known:
        return head, argument or None
    if Path(name).is_dir():
        return _kind_of_folder(Path(name)), name
    if Path(name).is_file():
        return "wordvectors", name
    if "/" in name and not colon and not Path(name).is_absolute() and not name.startswith("."):
        return "sentence-transformers", name
    raise TokenAdaptError(
        f"unknown auxiliary {name!r}: not one of {', '.join(known)}, not a folder or file, not a hub id"
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
