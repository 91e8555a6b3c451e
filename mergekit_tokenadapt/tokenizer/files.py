"""Finding and reading a tokenizer: from a folder, a ``tokenizer.json`` or a hub id.

No weights are read and no remote code is run. A tokenizer that has no ``tokenizer.json`` is
converted once by transformers into a temporary folder, and read from there like any other.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.storage.input_files import check_own, check_plain
from mergekit_tokenadapt.storage.temporary_folder import TemporaryFolder
from mergekit_tokenadapt.storage.whole_files import check_exists, check_fetched, file_is_no_tokenizer
from mergekit_tokenadapt.tokenizer.auto_tokenizer import load_whole, warn_once
from mergekit_tokenadapt.tokenizer.chat_templates import DEFAULT, NAMED_FOLDER, read_templates, template_files
from mergekit_tokenadapt.tokenizer.conversion import convert
from mergekit_tokenadapt.tokenizer.vocabulary import Token, Vocabulary

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


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer on disk: its parsed definition and the folder with its files."""

    name: str
    """As the user wrote it."""
    folder: Path
    definition: Mapping[str, Any] = field(repr=False)
    """The content of `tokenizer.json`, with the tokens that other files of the folder add."""
    config: Mapping[str, Any]
    """The content of `tokenizer_config.json`; empty where there is none."""
    role_tokens: Mapping[str, str]
    """Role to spelling (``{"eos": "</s>"}``); roles that the tokenizer does not set are missing."""
    rows: int | None = None
    """Rows of the model that it is to serve: tokens beyond them are left out; None for all tokens."""
    _temporary: TemporaryFolder | None = field(default=None, repr=False)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, with their bytes, kinds and roles."""
        with one_error(f"the vocabulary of {self.name} cannot be read"):
            whole = Vocabulary.from_definition(self.definition, self.role_tokens)
            return whole if self.rows is None else whole.with_rows(self.rows)

    @property
    def chat_template(self) -> str | None:
        """The default chat template (Jinja source), or None."""
        return self.chat_templates.get(DEFAULT)

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """All chat templates (Jinja source) by name."""
        return read_templates(self.folder, self.config)

    @cached_property
    def model_rows(self) -> int | None:
        """Rows of the model that this tokenizer comes with (`vocab_size` in its config.json), or None."""
        config = read_json(self.folder / "config.json")
        nested = config.get("text_config")
        rows = config.get("vocab_size") or (nested.get("vocab_size") if isinstance(nested, Mapping) else None)
        if rows is not None and (type(rows) is not int or rows < 0):
            raise TokenAdaptError(f"{self.folder / 'config.json'}: vocab_size {rows!r} is not a number of rows")
        return rows or None

    def files(self) -> list[Path]:
        """The tokenizer's own files, sorted; those of named chat templates are in a folder of their own."""
        return _present(self.folder, TOKENIZER_FILES)

    def with_rows(self, num_rows: int, *, tell: bool = True) -> TokenizerFiles:
        """The same tokenizer for a model of so many rows: added tokens beyond them are left out, with a note.

        Args:
            num_rows: the model's rows.
            tell: whether the note is to be made.

        Raises:
            TokenAdaptError: a token that is no added one has no row.
        """
        vocabulary = self.vocabulary
        if num_rows >= vocabulary.num_ids:
            return self
        beyond = [t for t in vocabulary if t.id >= num_rows]
        if vocabulary.num_text_ids > num_rows:
            raise TokenAdaptError(
                f"{self.name}: the tokenizer's highest id is {vocabulary.num_ids - 1}, but the model has {num_rows} "
                f"rows, and none for {len(beyond)} tokens, ordinary ones among them: tokenizer and model do not belong "
                "together"
            )
        shown = ", ".join(repr(t.spelling) for t in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        if tell:
            warn_once(
                f"{self.name}: of {num_rows} rows, none is for the added tokens {shown} (id {beyond[0].id} and up)"
            )
        added = [entry for entry in self.definition.get("added_tokens") or () if entry["id"] < num_rows]
        return replace(self, definition={**self.definition, "added_tokens": added}, rows=num_rows)

    def with_tokens(self, tokens: Iterable[Token]) -> TokenizerFiles:
        """The same tokenizer with a larger vocabulary. No text is cut into the further tokens: its rules stay."""
        larger = replace(self)
        # `vocabulary` is worked out once and kept: here it is what would be found there.
        larger.__dict__["vocabulary"] = Vocabulary((*self.vocabulary.tokens, *tokens), self.vocabulary.roles)
        return larger

    def copy_to(self, folder: Path) -> None:
        """Copy the tokenizer's own files into a folder, byte for byte."""
        copy_files(self.folder, folder, TOKENIZER_FILES)

    def fast_tokenizer(self) -> Tokenizer:
        """The tokenizer itself, without the truncation and padding that its definition may ask for."""
        return tokenizer_of(self.definition)


def copy_files(source: Path, destination: Path, names: Iterable[str]) -> None:
    """Copy those of some files that are there, and the named chat templates with them, byte for byte.

    Raises:
        TokenAdaptError: one of them is a link that leads out of the folder.
    """
    files = _present(source, names)
    check_own(source, files)
    for file in files:
        copy = destination / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _present(folder: Path, names: Iterable[str]) -> list[Path]:
    own = sorted(folder / name for name in names if (folder / name).is_file())
    return own + template_files(folder)


def tokenizer_of(definition: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a definition, without the truncation, padding and BPE dropout that it may ask for."""
    model = definition.get("model")
    if isinstance(model, Mapping) and model.get("dropout"):
        definition = {**definition, "model": {**model, "dropout": None}}
    with one_error("not a tokenizer that `tokenizers` can read"):
        tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> TokenizerFiles:
    """Read a tokenizer from a folder, a `tokenizer.json` file or a hub id.

    Raises:
        TokenAdaptError: there is no tokenizer at `name`, or it cannot be read.
    """
    folder = _find(name, revision)
    check_plain(folder)
    temporary = None
    if not (folder / "tokenizer.json").is_file():
        temporary = convert(name, folder, trust_remote_code=trust_remote_code)
        _copy_companions(folder, Path(temporary.name))
        folder = Path(temporary.name)
    file = folder / "tokenizer.json"
    definition = read_json(file)
    _check_prefix(file, definition)
    config = read_json(folder / "tokenizer_config.json")
    for companion in ("special_tokens_map.json", "added_tokens.json"):
        read_json(folder / companion)  # a broken file is named, before transformers stumbles over it
    whole = load_whole(folder, definition, trust_remote_code=trust_remote_code)
    _share_strings(whole.definition["model"])
    return TokenizerFiles(name, folder, whole.definition, config, whole.roles, _temporary=temporary)


def _find(name: str, revision: str | None) -> Path:
    """The folder of a tokenizer: as named, around a `tokenizer.json`, or fetched."""
    path = Path(name).expanduser()
    if path.is_file() and path.name != "tokenizer.json":
        raise file_is_no_tokenizer(path)
    if path.is_file():
        return path.parent
    if path.is_dir():
        return path
    if "+" in name:  # a model with an adapter speaks the model's tokenizer
        return _find(name.split("+")[0], revision)
    check_exists(name, "tokenizer")
    return _download(name, revision)


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
        check_fetched(file)
        raise TokenAdaptError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenAdaptError(f"{file} should hold a JSON object, not a {type(content).__name__}")
    return content


def _share_strings(model: dict[str, Any]) -> None:
    """Let the merges hold the vocabulary's own strings in place of copies: 100 MB less for 262,144 tokens."""
    vocab, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocab, dict) and isinstance(merges, list):
        own = {token: token for token in vocab}
        model["merges"] = [m if isinstance(m, str) else [own.get(part, part) for part in m] for m in merges]


def _check_prefix(file: Path, definition: Mapping[str, Any]) -> None:
    """Refuse merges that do not continue a word the way the model says: `tokenizers` would abort the process."""
    model = definition.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, Mapping) else None
    merges = model.get("merges") if isinstance(model, Mapping) else None
    if not isinstance(prefix, str) or not prefix or not isinstance(merges, list):
        return
    for merge in merges:
        second = (
            merge.split(" ")[-1] if isinstance(merge, str) else merge[-1] if isinstance(merge, list) and merge else ""
        )
        if not isinstance(second, str) or not second.startswith(prefix):
            raise TokenAdaptError(f"{file} is not a tokenizer: in the merge {merge!r}, nothing starts with {prefix!r}")


def _download(name: str, revision: str | None) -> Path:
    """The tokenizer files and config of a hub repository; no weights."""
    from huggingface_hub import snapshot_download

    try:
        files = [*TOKENIZER_FILES, f"{NAMED_FOLDER}/*.jinja", "config.json", "generation_config.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:
        reason = first_line(error)
        raise TokenAdaptError(
            f"no tokenizer found at {name!r}: it is not a folder, and could not be fetched as a hub id ({reason})"
        ) from error


def _copy_companions(source: Path, destination: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        with contextlib.suppress(FileNotFoundError):
            (destination / name).write_bytes((source / name).read_bytes())
