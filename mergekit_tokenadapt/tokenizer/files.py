"""Find and read a tokenizer: a folder, a ``tokenizer.json`` or a hub id.

No weights are read, and code from a folder runs only with `trust_remote_code`. A tokenizer without ``tokenizer.json``
is first converted by transformers into a temporary folder, and then read from there.
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
from mergekit_tokenadapt.storage.input_files import check_own, check_plain, local_path
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
"""Names of the files that belong to a tokenizer. All of them are copied into the output folder."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer on disk: its parsed definition, and the folder that holds its files."""

    name: str
    """The name that the user wrote."""
    folder: Path
    definition: Mapping[str, Any] = field(repr=False)
    """The content of `tokenizer.json`, with the tokens that other files of the folder add."""
    config: Mapping[str, Any]
    """The content of `tokenizer_config.json`; empty if the file does not exist."""
    role_tokens: Mapping[str, str]
    """Role -> spelling of its token (``{"eos": "</s>"}``), without the roles that the tokenizer does not set."""
    rows: int | None = None
    """Number of rows of the model. Tokens with ids beyond them are left out; None keeps all tokens."""
    _temporary: TemporaryFolder | None = field(default=None, repr=False)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens with their bytes, kinds and roles.

        Raises:
            TokenAdaptError: the definition has no valid vocabulary.
        """
        with one_error(f"the vocabulary of {self.name} cannot be read"):
            whole = Vocabulary.from_definition(self.definition, self.role_tokens)
            return whole if self.rows is None else whole.with_rows(self.rows)

    @property
    def chat_template(self) -> str | None:
        """The default chat template as Jinja source; None if there is none."""
        return self.chat_templates.get(DEFAULT)

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Name -> Jinja source of all chat templates."""
        return read_templates(self.folder, self.config)

    @cached_property
    def model_rows(self) -> int | None:
        """`vocab_size` in the config.json beside the tokenizer: the rows of its own model; None if it is not stated.

        Raises:
            TokenAdaptError: the value is not a number of rows.
        """
        config = read_json(self.folder / "config.json")
        nested = config.get("text_config")
        rows = config.get("vocab_size") or (nested.get("vocab_size") if isinstance(nested, Mapping) else None)
        if rows is not None and (type(rows) is not int or rows < 0):  # `isinstance` would accept true and false
            raise TokenAdaptError(f"{self.folder / 'config.json'}: vocab_size {rows!r} is not a number of rows")
        return rows or None

    def files(self) -> list[Path]:
        """Return the existing files of the tokenizer, sorted, then the files of its named chat templates."""
        return _present(self.folder, TOKENIZER_FILES)

    def with_rows(self, num_rows: int, *, tell: bool = True) -> TokenizerFiles:
        """Return the tokenizer without the added tokens that have no row in a model, and warn about them.

        Published models may have more added tokens than rows, for instance image tokens that a text model never sees.

        Args:
            num_rows: number of rows of the model's vocabulary matrices.
            tell: whether to warn.

        Raises:
            TokenAdaptError: an ordinary token has no row, so tokenizer and model do not belong together.
        """
        vocabulary = self.vocabulary
        if num_rows >= vocabulary.num_ids:
            return self
        beyond = [t for t in vocabulary if t.id >= num_rows]
        if vocabulary.num_text_ids > num_rows:
            raise TokenAdaptError(
                f"{self.name}: the tokenizer's highest id is {vocabulary.num_ids - 1}, but the model has only "
                f"{num_rows} rows. {len(beyond)} tokens have no row, ordinary ones among them: tokenizer and model do "
                "not belong together"
            )
        shown = ", ".join(repr(t.spelling) for t in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        if tell:
            warn_once(
                f"{self.name}: the model has {num_rows} rows and none for the added tokens {shown} "
                f"(id {beyond[0].id} and up); they are left out"
            )
        added = [entry for entry in self.definition.get("added_tokens") or () if entry["id"] < num_rows]
        return replace(self, definition={**self.definition, "added_tokens": added}, rows=num_rows)

    def with_tokens(self, tokens: Iterable[Token]) -> TokenizerFiles:
        """Return the tokenizer with further tokens in its vocabulary. Segmentation stays, so it never produces them."""
        larger = replace(self)
        # `vocabulary` is a cached property: this sets the cached value.
        larger.__dict__["vocabulary"] = Vocabulary((*self.vocabulary.tokens, *tokens), self.vocabulary.roles)
        return larger

    def copy_to(self, folder: Path) -> None:
        """Copy the tokenizer's files into a folder, byte for byte.

        Raises:
            TokenAdaptError: a file is a link that points out of the tokenizer's folder.
        """
        copy_files(self.folder, folder, TOKENIZER_FILES)

    def fast_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the `tokenizers` library, without truncation, padding and BPE dropout.

        Every call returns the same object: it must not be changed. A large vocabulary takes a second to build.
        """
        return self._fast_tokenizer

    @cached_property
    def _fast_tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.definition)


def copy_files(source: Path, destination: Path, names: Iterable[str]) -> None:
    """Copy existing files and the named chat templates from one folder to another, byte for byte.

    Args:
        source: folder to copy from.
        destination: folder to copy to.
        names: names of the files. Files that do not exist are ignored.

    Raises:
        TokenAdaptError: a file is a link that points out of `source`.
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
    """Build the tokenizer of a `tokenizer.json`'s content, without truncation, padding and BPE dropout.

    Raises:
        TokenAdaptError: the `tokenizers` library cannot read the definition.
    """
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

    Args:
        name: the folder, file or hub id.
        revision: branch, tag or commit of a hub repository; None for the default branch.
        trust_remote_code: whether code from the folder may run.

    Raises:
        TokenAdaptError: `name` is no tokenizer, or the tokenizer cannot be read.
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
        read_json(folder / companion)  # reports a broken file by name, which transformers does not
    whole = load_whole(folder, definition, trust_remote_code=trust_remote_code)
    definition = _with_model_type(whole.definition)
    _share_strings(definition["model"])
    return TokenizerFiles(name, folder, definition, config, whole.roles, _temporary=temporary)


def _find(name: str, revision: str | None) -> Path:
    """Return the folder of a tokenizer: the named folder, the folder of a named `tokenizer.json`, or a download."""
    path = local_path(name)
    if path.is_file() and path.name != "tokenizer.json":
        raise file_is_no_tokenizer(path)
    if path.is_file():
        return path.parent
    if path.is_dir():
        return path
    if "+" in name:  # MODEL+ADAPTER has the tokenizer of MODEL
        return _find(name.split("+")[0], revision)
    check_exists(name, "tokenizer")
    return _download(name, revision)


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file; return an empty dict if the file does not exist.

    Raises:
        TokenAdaptError: the file is not valid JSON, or does not hold an object.
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


def _with_model_type(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition with the type of its model. `tokenizers` finds the type out where a file lacks it."""
    model = definition["model"]
    if model.get("type") is None:
        model = {**model, "type": type(tokenizer_of(definition).model).__name__}
    return {**definition, "model": model}


def _share_strings(model: dict[str, Any]) -> None:
    """Let the merges refer to the strings of the vocabulary instead of copies. It saves 100 MB for 262,144 tokens."""
    vocab, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocab, dict) and isinstance(merges, list):
        own = {token: token for token in vocab}
        model["merges"] = [m if isinstance(m, str) else [own.get(part, part) for part in m] for m in merges]


def _check_prefix(file: Path, definition: Mapping[str, Any]) -> None:
    """Refuse BPE merges whose second part lacks the model's prefix. `tokenizers` would abort the process on them."""
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
    """Download the tokenizer files and the config of a hub repository, without weights."""
    from huggingface_hub import snapshot_download

    try:
        files = [*TOKENIZER_FILES, f"{NAMED_FOLDER}/*.jinja", "config.json", "generation_config.json"]
        files += ["*.model", "*.spm", "*.tiktoken", "*.py"]  # of models without a tokenizer.json
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:
        reason = first_line(error)
        raise TokenAdaptError(
            f"no tokenizer found at {name!r}: it is not a folder, and could not be fetched as a hub id ({reason})"
        ) from error


def _copy_companions(source: Path, destination: Path) -> None:
    """Copy the model's configs beside a converted tokenizer, where later code looks for rows and ids."""
    for name in ("config.json", "generation_config.json"):
        with contextlib.suppress(FileNotFoundError):
            (destination / name).write_bytes((source / name).read_bytes())
