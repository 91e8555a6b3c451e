"""Write a learned tokenizer as a folder: ``tokenizer.json``, ``tokenizer_config.json`` and a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output import write_json
from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.storage.staging import staged_folder
from mergekit_tokenadapt.texts.builtin import builtin_text
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, copy_files, load_tokenizer, read_json

MANIFEST = "supertokens.json"
"""File that records how the tokenizer was made."""
COPIED = ("special_tokens_map.json", "chat_template.jinja", "chat_template.json")
"""Files of another tokenizer that stay correct when its vocabulary grows. ``vocab.json`` and ``merges.txt`` do not."""
NOT_COPIED = (
    *("auto_map", "tokenizer_file", "vocab_file", "merges_file", "backend", "is_local", "local_files_only"),
    "added_tokens_decoder",
)
"""Keys of another tokenizer's ``tokenizer_config.json`` that name its files, its code or the ids of its tokens."""


def write_tokenizer(
    out: str | Path,
    definition: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    like: TokenizerFiles | None = None,
    force: bool = False,
    may_be_there: bool = False,
) -> None:
    """Write a tokenizer folder. Either the whole folder appears or nothing.

    Args:
        out: the folder to write.
        definition: the content of ``tokenizer.json``.
        manifest: how the tokenizer was made. It has no dates and no output paths, so that the same work writes the same
            file.
        like: the tokenizer whose special token roles, config and chat template the result gets.
        force: replace `out` if this package wrote it.
        may_be_there: accept `out` as it is if it already holds the same tokenizer.

    Raises:
        TokenAdaptError: `out` exists, or transformers would segment a text differently from ``tokenizer.json``.
    """
    with staged_folder(out, force=force, may_be_there=may_be_there) as folder:
        folder.mkdir()
        # `tokenizers` itself writes the file: it fills in defaults, and what it writes it reads back unchanged.
        write_file(folder / "tokenizer.json", Tokenizer.from_str(json.dumps(definition)).to_str(pretty=True))
        if like is not None:
            copy_files(like.folder, folder, COPIED)
        write_json(folder / "tokenizer_config.json", _config(like))
        write_json(folder / MANIFEST, {"format": "mergekit-tokenadapt supertokens 1", **manifest, **_versions()})
        check_transformers(folder)


def check_same_command(out: Path, request: Mapping[str, Any]) -> None:
    """Check, before the work starts, that the same command made a folder that already exists.

    Args:
        out: the existing folder.
        request: the options of this command, as its manifest would record them.

    Raises:
        TokenAdaptError: the folder's manifest records other options.
    """
    made = read_json(out / MANIFEST)
    wanted = json.loads(json.dumps(request))  # tuples and integer keys become what JSON makes of them
    text = wanted.pop("text")
    same_text = isinstance(made.get("text"), Mapping) and made["text"].get("sources") == text["sources"]
    if not same_text or any(made.get(key) != value for key, value in wanted.items()):
        raise TokenAdaptError(
            f"{out} exists already, with another tokenizer; give another name, or --force to replace it"
        )


def _config(like: TokenizerFiles | None) -> dict[str, Any]:
    """Return the other tokenizer's config with the class ``PreTrainedTokenizerFast``.

    That class uses ``tokenizer.json`` as it is. The classes of model families replace the pre-tokenizer with their own,
    which would split at every word again. Ids and flags of added tokens are in ``tokenizer.json``.
    """
    config = {} if like is None else {key: value for key, value in like.config.items() if key not in NOT_COPIED}
    if like is not None:
        config |= {f"{role}_token": token for role, token in like.role_tokens.items()}
    return {**config, "tokenizer_class": "PreTrainedTokenizerFast"}


def _versions() -> dict[str, Any]:
    return {"versions": {name: version(name) for name in ("mergekit-tokenadapt", "tokenizers", "numpy")}}


def check_transformers(folder: Path) -> None:
    """Compare the token ids from transformers with those from ``tokenizer.json``, on prose, code and difficult texts.

    Raises:
        TokenAdaptError: a text gets different tokens.
    """
    mine, theirs = load_tokenizer(str(folder)).fast_tokenizer(), auto_tokenizer(folder)
    for name in ("prose", "code", "hard"):
        for document in builtin_text(name).documents:
            ids = theirs(document, add_special_tokens=False).input_ids
            if ids != mine.encode(document, add_special_tokens=False).ids:
                raise TokenAdaptError(
                    f"transformers would segment the text {document[:40]!r} differently from the new tokenizer.json; "
                    "the folder is not written"
                )
