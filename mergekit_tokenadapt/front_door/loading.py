"""Load tokenizers from names, or take tokenizers that transformers has loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.temporary_folder import TemporaryFolder
from mergekit_tokenadapt.tokenizer import files as tokenizer_files
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig


def load_tokenizer(tokenizer: Any, *, trust_remote_code: bool = False) -> TokenizerFiles:
    """Read a tokenizer with its vocabulary in bytes, the roles of its special tokens, and its chat templates.

    Args:
        tokenizer: a folder, a ``tokenizer.json`` file, a hub id, or a tokenizer that transformers has loaded.
        trust_remote_code: whether code of a hub repository may run.

    Raises:
        TokenAdaptError: there is no tokenizer, or its vocabulary cannot be read.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> ta.load_tokenizer("./tokenizer").vocabulary.find(" example").id  # doctest: +SKIP
        2511
    """
    if isinstance(tokenizer, TokenizerFiles):
        return tokenizer
    if isinstance(tokenizer, str | os.PathLike):
        return tokenizer_files.load_tokenizer(os.fspath(tokenizer), trust_remote_code=trust_remote_code)
    return saved(tokenizer)


def name_of(value: Any, parameter: str, advice: str) -> str:
    """Return the path or hub id that a caller gave.

    Args:
        value: what the caller gave.
        parameter: the parameter's name.
        advice: what to do with a loaded model or tokenizer instead.

    Raises:
        TokenAdaptError: `value` is neither text nor a path.
    """
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise TokenAdaptError(f"{parameter} is a folder or hub id, not an object {type(value).__name__}: {advice}")


SAVE_FIRST = "save it with save_pretrained, and give that folder"
"""Advice for a loaded model or tokenizer where a folder is needed."""


def saved(tokenizer: Any, config: Any = None) -> TokenizerFiles:
    """Save a tokenizer of transformers into a temporary folder, and read it from there.

    Args:
        tokenizer: the tokenizer; not changed.
        config: config of its model, if known. The class that reads the files may depend on it.

    Raises:
        TokenAdaptError: the object is not a tokenizer of transformers, or its vocabulary cannot be read.
    """
    if not hasattr(tokenizer, "save_pretrained") or not hasattr(tokenizer, "get_vocab"):
        raise TokenAdaptError(
            f"a tokenizer is a folder, a hub id, or a tokenizer that transformers has loaded, not {tokenizer!r:.80}"
        )
    temporary = TemporaryFolder()
    tokenizer.save_pretrained(temporary.name)
    if config is not None:
        config.save_pretrained(temporary.name)
    files = tokenizer_files.load_tokenizer(str(Path(temporary.name)))
    name = getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__
    # The folder is deleted together with the returned object, because later steps read files from it.
    return replace(files, name=str(name), _temporary=temporary)


def read_options(options: Mapping[str, Any]) -> AdaptConfig:
    """Read keyword arguments as `AdaptConfig` reads a recipe. Path objects are allowed.

    Raises:
        TokenAdaptError: a key or a value is wrong.
    """
    return AdaptConfig.read({key: os.fspath(v) if isinstance(v, os.PathLike) else v for key, v in options.items()})
