"""A learned tokenizer as a folder: tokenizer.json, tokenizer_config.json, and how it was made."""

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
COPIED = ("special_tokens_map.json", "chat_template.jinja", "chat_template.json")
"""Files of another tokenizer that stay true when its vocabulary grows; vocab.json and its like do not."""


def write_tokenizer(
    out: str | Path,
    definition: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    like: TokenizerFiles | None = None,
    force: bool = False,
    may_be_there: bool = False,
) -> None:
    """Write a tokenizer folder, complete or not at all.

    Args:
        out: the folder.
        definition: tokenizer.json.
        manifest: how it was made; no dates or paths of outputs, so that the same work writes the same file.
        like: whose roles of special tokens and chat template it has.
        force: replace `out`, if this tool wrote it.
        may_be_there: leave `out` as it is where it holds the same tokenizer already.

    Raises:
        TokenAdaptError: `out` exists, or transformers would not cut text as this tokenizer.json does.
    """
    with staged_folder(out, force=force, may_be_there=may_be_there) as folder:
        folder.mkdir()
        # The library's own writing: what it reads back is what it writes.
        write_file(folder / "tokenizer.json", Tokenizer.from_str(json.dumps(definition)).to_str(pretty=True))
        if like is not None:
            copy_files(like.folder, folder, COPIED)
        write_json(folder / "tokenizer_config.json", _config(like))
        write_json(folder / MANIFEST, {"format": "mergekit-tokenadapt supertokens 1", **manifest, **_versions()})
        check_transformers(folder)


def check_same_command(out: Path, request: Mapping[str, Any]) -> None:
    """Find out before the work that a folder was made by another command than the one that goes on with it.

    Raises:
        TokenAdaptError: its manifest does not say what the request says.
    """
    made = read_json(out / MANIFEST)
    wanted = json.loads(json.dumps(request))
    text = wanted.pop("text")
    same_text = isinstance(made.get("text"), Mapping) and made["text"].get("sources") == text["sources"]
    if not same_text or any(made.get(key) != value for key, value in wanted.items()):
        raise TokenAdaptError(
            f"{out} exists already, with another tokenizer; give another name, or --force to replace it"
        )


def _config(like: TokenizerFiles | None) -> dict[str, Any]:
    """The other tokenizer's config, under the class that takes tokenizer.json as it is.

    Classes of model families bring their own pre-tokenizers, which would cut at every word again.
    """
    config = {} if like is None else dict(like.config)
    for key in ("auto_map", "tokenizer_file", "vocab_file", "merges_file", "backend", "is_local", "local_files_only"):
        config.pop(key, None)
    if like is not None:
        config |= {f"{role}_token": token for role, token in like.role_tokens.items()}
    return {**config, "tokenizer_class": "PreTrainedTokenizerFast"}


def _versions() -> dict[str, Any]:
    return {"versions": {name: version(name) for name in ("mergekit-tokenadapt", "tokenizers", "numpy")}}


def check_transformers(folder: Path) -> None:
    """Compare what transformers reads from the folder with its tokenizer.json, on prose, code and hard texts.

    Raises:
        TokenAdaptError: they cut a text differently.
    """
    mine, theirs = load_tokenizer(str(folder)).fast_tokenizer(), auto_tokenizer(folder)
    for name in ("prose", "code", "hard"):
        for document in builtin_text(name).documents:
            ids = theirs(document, add_special_tokens=False).input_ids
            if ids != mine.encode(document, add_special_tokens=False).ids:
                raise TokenAdaptError(f"transformers would cut the text {document[:40]!r} in another way")
