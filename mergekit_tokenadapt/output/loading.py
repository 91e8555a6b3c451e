"""Load the target tokenizer as AutoTokenizer will load it from the output, beside the base model's config.json.

For some model types (``qwen2``), AutoTokenizer chooses the tokenizer class by the model type in config.json, whatever
the tokenizer's files say. Such a class may add tokens, which then need rows, and may pre-tokenize by its own pattern.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, one_error
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.texts.builtin import builtin_text
from mergekit_tokenadapt.tokenizer.auto_tokenizer import added_tokens, auto_tokenizer, quiet_transformers
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

LOG = logging.getLogger(__name__)


def as_loaded(target: TokenizerFiles, base: TokenizerFiles, base_folder: Path) -> TokenizerFiles:
    """Return the target with the tokens that AutoTokenizer adds to it beside the base model's config.json.

    Logs a warning if AutoTokenizer adds tokens, changes ids, or segments text differently from the target.

    Args:
        target: the target tokenizer.
        base: the base model's tokenizer.
        base_folder: the base model's folder.

    Raises:
        TokenAdaptError: the target cannot encode text.
    """
    if target is base or not (base_folder / "config.json").is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="tokenadapt-") as temporary:
        folder = Path(temporary)
        write_beside_config(folder, target, base, base_folder)
        try:
            loaded = auto_tokenizer(folder)
        except TokenAdaptError as error:
            LOG.warning("the output's tokenizer: %s", error.message.replace(f"{folder}/", ""))
            return target
    added, moved = _compare(target, loaded)
    changes = [f"adds {', '.join(repr(entry['content']) for entry in added)} (which get rows)"] if added else []
    changes += [f"gives other ids to {len(moved)} tokens, {moved[0]!r} for one"] if moved else []
    with one_error(f"the target tokenizer {target.name} cannot encode text"):
        changes += ["segments text differently"] if _segmented(loaded) != _segmented_alone(target) else []
    if changes:
        LOG.warning(
            "beside the base model's config.json, AutoTokenizer reads the target tokenizer as %s, which %s. "
            "PreTrainedTokenizerFast.from_pretrained loads the output's tokenizer as the target defines it",
            type(loaded).__name__,
            " and ".join(changes),
        )
    whole = sorted([*(target.definition.get("added_tokens") or ()), *added], key=lambda entry: entry["id"])
    return replace(target, definition={**target.definition, "added_tokens": whole}) if added else target


def write_beside_config(folder: Path, target: TokenizerFiles, base: TokenizerFiles, base_folder: Path) -> None:
    """Write into `folder` what the output's tokenizer is loaded from: the target's files beside the base's config.json.

    Args:
        folder: the folder to write into.
        target: the target tokenizer.
        base: the base model's tokenizer.
        base_folder: the base model's folder.

    Raises:
        TokenAdaptError: a file of the target is a link that points out of its folder.
    """
    target.copy_to(folder)
    if not (folder / "tokenizer_config.json").is_file():
        write_json(folder / "tokenizer_config.json", minimal_config(target, base))
    if (base_folder / "config.json").is_file():
        (folder / "config.json").write_bytes((base_folder / "config.json").read_bytes())


def minimal_config(target: TokenizerFiles, base: TokenizerFiles) -> dict[str, Any]:
    """Make a tokenizer_config.json for a target that has none.

    Each role is the target's own, which may come from special_tokens_map.json or its model's tokenizer class. Other
    roles are the base model's, if the target has a token of the same spelling.
    """
    shared = {role: token for role, token in base.role_tokens.items() if token in target.vocabulary.by_spelling}
    roles = {f"{role}_token": token for role, token in {**shared, **target.role_tokens}.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **roles}


def _compare(target: TokenizerFiles, loaded: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the target with the tokenizer that AutoTokenizer loaded.

    Returns:
        Entries of the tokens that it adds under free ids, and the spellings of the tokens that get other ids.
    """
    known, taken = target.vocabulary.by_spelling, target.vocabulary.by_id
    new = [entry for entry in added_tokens(loaded) if entry["content"] not in known]
    moved = [token for token, i in sorted(loaded.get_vocab().items()) if token in known and known[token].id != i]
    moved += [entry["content"] for entry in new if entry["id"] in taken]
    return [entry for entry in new if entry["id"] not in taken], moved


def _segmented_alone(target: TokenizerFiles) -> list[list[int]]:
    """Encode the test texts with the target as it is loaded from its own folder."""
    try:
        return _segmented(auto_tokenizer(target.folder))
    except TokenAdaptError:  # the folder holds only a tokenizer.json, or the class is code of the folder
        library = target.fast_tokenizer()
        return [library.encode(text, add_special_tokens=False).ids for text in _texts()]


def _segmented(loaded: Any) -> list[list[int]]:
    """Encode the test texts with a transformers tokenizer."""
    with quiet_transformers():  # it would warn about texts longer than model_max_length
        return [loaded(text, add_special_tokens=False).input_ids for text in _texts()]


def _texts() -> list[str]:
    return [text for name in ("hard", "code", "prose") for text in builtin_text(name).documents]
