"""What transformers makes of a tokenizer folder: the ids, the special tokens and the roles that a model sees.

``tokenizer.json`` is not the whole tokenizer. Roles and lists in ``tokenizer_config.json``, ``added_tokens.json``,
``special_tokens_map.json`` and the defaults of a tokenizer class add tokens, or make some special. The rules differ
between classes and between versions. So none of them is repeated here: the folder is loaded as its users load it.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError, one_error

LOG = logging.getLogger(__name__)

ROLES = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")
"""The roles that a special token can have in `tokenizer_config.json`."""


@dataclass(frozen=True)
class WholeTokenizer:
    """A `tokenizer.json` together with what stands beside it."""

    definition: Mapping[str, Any]
    """The content of `tokenizer.json`, but with the added tokens that transformers has, under its ids."""
    roles: Mapping[str, str]
    """Role to spelling (``{"eos": "</s>"}``); roles that the tokenizer does not set are missing."""


def load_whole(folder: Path, definition: Mapping[str, Any], *, trust_remote_code: bool = False) -> WholeTokenizer:
    """Complete the `tokenizer.json` of a folder by what transformers makes of the whole folder.

    Ids, special tokens and roles are those of ``AutoTokenizer``. How text is cut stays as `tokenizer.json` says,
    even where a class (``LlamaTokenizer``) puts pre-tokenizers of its own in their place: other programs read the
    file, and `mergekit-tokenadapt-eval check` tells the difference. Only where the class makes another vocabulary
    of the same file, its own definition is taken.

    Args:
        folder: the folder.
        definition: the content of its `tokenizer.json`.
        trust_remote_code: whether code from the folder may run.

    Raises:
        TokenAdaptError: transformers cannot load it.
    """
    tokenizer = _load(folder, trust_remote_code)
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    whole = {**definition, "added_tokens": added_tokens(tokenizer)}
    if dropout := definition["model"].get("dropout"):
        warn_once(
            f"{folder / 'tokenizer.json'} asks for BPE dropout ({dropout}): other programs will cut text at random"
        )
        whole["model"] = {**definition["model"], "dropout": None}
    if _ids(whole) != vocabulary:
        warn_once(
            f"{folder}: {type(tokenizer).__name__} of transformers gives other ids than tokenizer.json: they are used"
        )
        whole = {**json.loads(tokenizer.backend_tokenizer.to_str()), "added_tokens": whole["added_tokens"]}
    _warn_of_other_ids(folder, definition, vocabulary)
    roles = {role: tokenizer.special_tokens_map.get(f"{role}_token") for role in ROLES}
    return WholeTokenizer(whole, {role: str(token) for role, token in roles.items() if token is not None})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from writing warnings about tokenizer classes, which a user can do nothing about."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def auto_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The folder as ``AutoTokenizer`` reads it: a fast tokenizer of transformers, without dropout.

    Raises:
        TokenAdaptError: it cannot be loaded, or has no backend of `tokenizers`.
    """
    from transformers import AutoTokenizer

    with quiet_transformers(), one_error("AutoTokenizer cannot load it"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        if not getattr(tokenizer, "is_fast", False):
            raise TokenAdaptError(f"AutoTokenizer reads it as {type(tokenizer).__name__}, which is slow")
    return without_dropout(tokenizer)


def without_dropout(tokenizer: Any) -> Any:
    """Let a tokenizer of transformers cut a text the same way every time; the tokenizer itself is changed.

    BPE dropout leaves out merges at random. It is meant for training, but is live wherever the file is loaded.
    """
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None) is not None:
        model.dropout = None
    return tokenizer


def _load(folder: Path, trust_remote_code: bool) -> Any:
    """The folder's tokenizer of transformers, by its class where that can be."""
    from transformers import PreTrainedTokenizerFast

    # Without these files, AutoTokenizer has nothing to choose a class by.
    if any((folder / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        try:
            return auto_tokenizer(folder, trust_remote_code=trust_remote_code)
        except TokenAdaptError as error:
            check_file(folder / "tokenizer.json")
            warn_once(f"{folder}: {error}. Its tokenizer.json is read without the tokenizer's class")
    check_file(folder / "tokenizer.json")
    with quiet_transformers(), one_error(f"{folder}: transformers cannot load this tokenizer"):
        return PreTrainedTokenizerFast.from_pretrained(str(folder))


def check_file(file: Path) -> None:
    """Let the library judge whether a file is a `tokenizer.json`.

    Raises:
        TokenAdaptError: it is none.
    """
    with one_error(f"{file} is not a tokenizer that `tokenizers` can read"):
        Tokenizer.from_file(str(file))


def added_tokens(tokenizer: Any) -> list[dict[str, Any]]:
    """A tokenizer's added tokens as `tokenizer.json` writes them, by id."""
    special = set(tokenizer.all_special_tokens)
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    added = [(i, {flag: getattr(t, flag) for flag in flags}) for i, t in sorted(tokenizer.added_tokens_decoder.items())]
    return [{"id": i, **entry, "special": entry["special"] or entry["content"] in special} for i, entry in added]


def _ids(definition: Mapping[str, Any]) -> dict[str, int]:
    """Spelling to id, of the model's entries and of the added tokens."""
    entries = definition["model"]["vocab"]
    ids = dict(entries) if isinstance(entries, Mapping) else {piece: i for i, (piece, _score) in enumerate(entries)}
    return ids | {entry["content"]: entry["id"] for entry in definition["added_tokens"]}


def _warn_of_other_ids(folder: Path, definition: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Tell of tokens that a file of the folder gives another id than transformers does: gaps, or ids given twice."""
    for file, declared in _declared(folder, definition):
        other = [(token, i) for token, i in declared if vocabulary.get(token) != i]
        if other:
            token, i = other[0]
            more = f" (and {len(other) - 1} others)" if len(other) > 1 else ""
            found = f"as {vocabulary[token]}" if token in vocabulary else "as no token at all"
            warn_once(
                f"{folder / file} gives {token!r} the id {i}, but transformers reads it {found}{more}: that is used"
            )


def _declared(folder: Path, definition: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Each file that gives added tokens ids, and what it says."""
    yield "tokenizer.json", [(entry["content"], entry["id"]) for entry in definition.get("added_tokens") or ()]
    config = _content(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    yield "tokenizer_config.json", [(entry.get("content", ""), int(i)) for i, entry in config.items()]
    yield "added_tokens.json", list(_content(folder / "added_tokens.json").items())


def _content(file: Path) -> dict[str, Any]:
    """A JSON file that transformers has read without complaint; empty where there is none."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


@functools.lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Log a warning once: a command may load a folder several times."""
    LOG.warning("%s", message)
