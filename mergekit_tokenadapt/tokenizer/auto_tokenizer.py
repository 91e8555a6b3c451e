"""Load a tokenizer folder with transformers, to get the ids, special tokens and roles that a model sees.

``tokenizer.json`` alone does not define them. ``tokenizer_config.json``, ``added_tokens.json``,
``special_tokens_map.json`` and the defaults of a tokenizer class can add tokens, or mark tokens as special. The rules
differ between tokenizer classes and between versions of transformers. This module therefore does not reimplement them:
it loads the folder with ``AutoTokenizer``, as users do.
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
    """A `tokenizer.json` completed with the tokens and roles that other files of its folder define."""

    definition: Mapping[str, Any]
    """The content of `tokenizer.json`, with the added tokens and ids that transformers gives them."""
    roles: Mapping[str, str]
    """Role -> spelling of its token (``{"eos": "</s>"}``), without the roles that the tokenizer does not set."""


def load_whole(folder: Path, definition: Mapping[str, Any], *, trust_remote_code: bool = False) -> WholeTokenizer:
    """Complete the `tokenizer.json` of a folder with what transformers reads from the whole folder.

    Ids, special tokens and roles come from ``AutoTokenizer``. Segmentation stays as `tokenizer.json` defines it, even
    if a class such as ``LlamaTokenizer`` replaces the pre-tokenizer: other programs read the file itself, and
    `mergekit-tokenadapt-eval check` reports the difference. Only if the class builds another vocabulary from the file
    does its whole definition replace that of the file.

    Args:
        folder: the tokenizer's folder.
        definition: the content of its `tokenizer.json`.
        trust_remote_code: whether code from the folder may run.

    Raises:
        TokenAdaptError: transformers cannot load the folder.
    """
    tokenizer = _load(folder, trust_remote_code)
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    whole = {**definition, "added_tokens": added_tokens(tokenizer)}
    if dropout := definition["model"].get("dropout"):
        warn_once(
            f"{folder / 'tokenizer.json'} asks for BPE dropout ({dropout}): other programs will segment text at random"
        )
        whole["model"] = {**definition["model"], "dropout": None}
    if _ids(whole) != vocabulary:
        warn_once(
            f"{folder}: {type(tokenizer).__name__} of transformers gives other ids than tokenizer.json; "
            "transformers' ids are used"
        )
        whole = {**json.loads(tokenizer.backend_tokenizer.to_str()), "added_tokens": whole["added_tokens"]}
    _warn_of_other_ids(folder, definition, vocabulary)
    roles = {role: tokenizer.special_tokens_map.get(f"{role}_token") for role in ROLES}
    return WholeTokenizer(whole, {role: str(token) for role, token in roles.items() if token is not None})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the ``with`` block, hide transformers' warnings about tokenizer classes. Users cannot act on them."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def auto_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a folder with ``AutoTokenizer``, as a fast tokenizer without BPE dropout.

    Raises:
        TokenAdaptError: the tokenizer cannot be loaded, or is slow (it does not use the `tokenizers` library).
    """
    from transformers import AutoTokenizer

    with quiet_transformers(), one_error("AutoTokenizer cannot load it"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        if not getattr(tokenizer, "is_fast", False):
            raise TokenAdaptError(f"AutoTokenizer reads it as {type(tokenizer).__name__}, which is slow")
    return without_dropout(tokenizer)


def without_dropout(tokenizer: Any) -> Any:
    """Switch BPE dropout off in a transformers tokenizer, in place, so that it segments a text the same way each time.

    BPE dropout skips merges at random. It is meant for training, but it is active wherever the file is loaded.
    """
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None) is not None:
        model.dropout = None
    return tokenizer


def _load(folder: Path, trust_remote_code: bool) -> Any:
    """Load the folder's tokenizer with its own class, or with the generic class if that fails."""
    from transformers import PreTrainedTokenizerFast

    # AutoTokenizer chooses a class by one of these files.
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
    """Check that the `tokenizers` library can read a file.

    Raises:
        TokenAdaptError: it cannot.
    """
    with one_error(f"{file} is not a tokenizer that `tokenizers` can read"):
        Tokenizer.from_file(str(file))


def added_tokens(tokenizer: Any) -> list[dict[str, Any]]:
    """Return the added tokens of a transformers tokenizer in the format of `tokenizer.json`, by ascending id."""
    special = set(tokenizer.all_special_tokens)
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    added = [(i, {flag: getattr(t, flag) for flag in flags}) for i, t in sorted(tokenizer.added_tokens_decoder.items())]
    return [{"id": i, **entry, "special": entry["special"] or entry["content"] in special} for i, entry in added]


def _ids(definition: Mapping[str, Any]) -> dict[str, int]:
    """Return spelling -> id of the model's entries and the added tokens of a definition."""
    entries = definition["model"]["vocab"]
    ids = dict(entries) if isinstance(entries, Mapping) else {piece: i for i, (piece, _score) in enumerate(entries)}
    return ids | {entry["content"]: entry["id"] for entry in definition["added_tokens"]}


def _warn_of_other_ids(folder: Path, definition: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Warn about tokens to which a file of the folder gives another id than transformers.

    transformers does so if added tokens leave a gap between ids, or if two tokens have one id.
    """
    for file, declared in _declared(folder, definition):
        other = [(token, i) for token, i in declared if vocabulary.get(token) != i]
        if other:
            token, i = other[0]
            more = f" (and {len(other) - 1} others)" if len(other) > 1 else ""
            found = f"as {vocabulary[token]}" if token in vocabulary else "as no token at all"
            warn_once(
                f"{folder / file} gives {token!r} the id {i}, but transformers reads it {found}{more}; "
                "transformers' reading is used"
            )


def _declared(folder: Path, definition: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield the name of each file that gives ids to added tokens, with its (spelling, id) pairs."""
    yield "tokenizer.json", [(entry["content"], entry["id"]) for entry in definition.get("added_tokens") or ()]
    config = _content(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    yield "tokenizer_config.json", [(entry.get("content", ""), int(i)) for i, entry in config.items()]
    yield "added_tokens.json", list(_content(folder / "added_tokens.json").items())


def _content(file: Path) -> dict[str, Any]:
    """Read a JSON file that transformers has already accepted; return an empty dict if it does not exist."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


@functools.lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Log a warning only once per process, because a command may load one folder several times."""
    LOG.warning("%s", message)
