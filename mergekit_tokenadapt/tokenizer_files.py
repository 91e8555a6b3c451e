"""Finding and reading a tokenizer: from a folder, a ``tokenizer.json`` or a hub id.

No weights are read and no remote code is run. A tokenizer that has no ``tokenizer.json`` is
converted once by transformers into a temporary folder, and read from there like any other.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.vocabulary import Vocabulary

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Every file that belongs to a tokenizer, and so goes with it into the output folder."""

ROLES = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")
"""The roles that a special token can have in `tokenizer_config.json`."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer on disk: its parsed definition and the folder with its files."""

    name: str
    """As the user wrote it."""
    folder: Path
    definition: Mapping[str, Any]
    """The content of `tokenizer.json`, with tokens that only `tokenizer_config.json` adds."""
    config: Mapping[str, Any]
    """The content of `tokenizer_config.json`; empty where there is none."""
    _temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, with their bytes, kinds and roles."""
        return Vocabulary.from_definition(self.definition, self.role_tokens)

    @cached_property
    def role_tokens(self) -> dict[str, str]:
        """Role to spelling (``{"eos": "</s>"}``); roles that the tokenizer does not set are missing."""
        declared = read_json(self.folder / "special_tokens_map.json") | dict(self.config)
        roles: dict[str, str] = {}
        for role in ROLES:
            value = declared.get(f"{role}_token")
            if isinstance(value, Mapping):
                value = value.get("content")
            if isinstance(value, str):
                roles[role] = value
        return roles

    @cached_property
    def chat_template(self) -> str | None:
        """The default chat template (Jinja source), or None."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self.config.get("chat_template")
        if isinstance(template, list):  # named templates
            template = next((t["template"] for t in template if t.get("name") == "default"), None)
        return template

    @cached_property
    def model_rows(self) -> int | None:
        """Rows of the model that this tokenizer comes with (`vocab_size` in its config.json), or None."""
        config = read_json(self.folder / "config.json")
        rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
        return int(rows) if rows else None

    def files(self) -> list[Path]:
        """The tokenizer's own files, sorted by name."""
        return sorted(self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file())

    def fast_tokenizer(self) -> Tokenizer:
        """The tokenizer itself, without the truncation and padding that its definition may ask for."""
        return tokenizer_of(self.definition)


def tokenizer_of(definition: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a definition, without the truncation and padding that it may ask for."""
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> TokenizerFiles:
    """Read a tokenizer from a folder, a `tokenizer.json` file or a hub id.

    Raises:
        TokenAdaptError: there is no tokenizer at `name`, or it cannot be read.
    """
    path = Path(name)
    if path.is_file():
        path = path.parent
    folder = path if path.is_dir() else _download(name, revision)
    temporary = None
    if not (folder / "tokenizer.json").is_file():
        temporary = _convert(name, folder, trust_remote_code)
        _copy_companions(folder, Path(temporary.name))
        folder = Path(temporary.name)
    config = read_json(folder / "tokenizer_config.json")
    definition = _read_definition(folder / "tokenizer.json")
    return TokenizerFiles(name, folder, _with_config_tokens(definition, config), config, temporary)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file.

    Raises:
        TokenAdaptError: the file is not valid JSON, or holds something other than an object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenAdaptError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenAdaptError(f"{file} should hold a JSON object, not a {type(content).__name__}")
    return content


def _read_definition(file: Path) -> dict[str, Any]:
    definition = read_json(file)
    try:
        # The library is the judge of what is a tokenizer; its own message says where it stumbled.
        Tokenizer.from_file(str(file))
    except Exception as error:
        raise TokenAdaptError(f"{file} is not a tokenizer that `tokenizers` can read: {error}") from error
    return definition


def _with_config_tokens(definition: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the tokens that older tokenizers declare in `tokenizer_config.json` only."""
    known = {entry["content"] for entry in definition.get("added_tokens") or ()}
    vocabulary = definition["model"].get("vocab")
    if isinstance(vocabulary, dict):
        known |= vocabulary.keys()
    declared = config.get("added_tokens_decoder") or {}
    for token_id, entry in declared.items():
        if not token_id.isdecimal() or not isinstance(entry, Mapping):
            raise TokenAdaptError(f"tokenizer_config.json: added_tokens_decoder: {token_id!r} is not a token")
    extra = [{"id": int(i), **entry} for i, entry in declared.items() if entry.get("content") not in known]
    if not extra:
        return definition
    added = [*(definition.get("added_tokens") or ()), *extra]
    return {**definition, "added_tokens": sorted(added, key=lambda entry: entry["id"])}


def _download(name: str, revision: str | None) -> Path:
    """The tokenizer files and config of a hub repository; no weights."""
    from huggingface_hub import snapshot_download

    try:
        files = [*TOKENIZER_FILES, "config.json", "generation_config.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:
        reason = first_line(error)
        raise TokenAdaptError(
            f"no tokenizer found at {name!r}: it is not a folder, and could not be fetched as a hub id ({reason})"
        ) from error


def _convert(name: str, folder: Path, trust_remote_code: bool) -> tempfile.TemporaryDirectory[str]:
    """Let transformers convert a tokenizer without `tokenizer.json` into a temporary folder."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        reason = first_line(error)
        raise TokenAdaptError(
            f"{name!r} holds no tokenizer.json, and transformers cannot make one from its other files: {reason}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise TokenAdaptError(
            f"{name!r} has only a slow tokenizer ({type(tokenizer).__name__}), whose vocabulary cannot be read; "
            "convert it to a tokenizer.json first"
        )
    temporary = tempfile.TemporaryDirectory(prefix="tokenadapt-")
    tokenizer.save_pretrained(temporary.name)
    return temporary


def _copy_companions(source: Path, destination: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        with contextlib.suppress(FileNotFoundError):
            (destination / name).write_bytes((source / name).read_bytes())
