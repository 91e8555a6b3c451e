"""The target's tokenizer as AutoTokenizer will read it from the output, beside the base model's config.json.

AutoTokenizer chooses a class by the model type, for some types (``qwen2``) whatever the tokenizer's own files say.
Such a class may add tokens, which need rows, and may cut text by a pattern of its own.
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
    """The target, with the tokens that AutoTokenizer adds to it beside the base model's config.json.

    Warns where there are such tokens, where ids change, and where text is cut otherwise than by the target.

    Raises:
        TokenAdaptError: the target cannot encode text.
    """
    if target is base or not (base_folder / "config.json").is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="tokenadapt-") as temporary:
        folder = Path(temporary)
        target.copy_to(folder)
        if not (folder / "tokenizer_config.json").is_file():
            write_json(folder / "tokenizer_config.json", minimal_config(target, base))
        (folder / "config.json").write_bytes((base_folder / "config.json").read_bytes())
        try:
            loaded = auto_tokenizer(folder)
        except TokenAdaptError as error:
            LOG.warning("the output's tokenizer: %s", error.message.replace(f"{folder}/", ""))
            return target
    added, moved = _compare(target, loaded)
    changes = [f"adds {', '.join(repr(entry['content']) for entry in added)} (which get rows)"] if added else []
    changes += [f"gives other ids to {len(moved)} tokens, {moved[0]!r} for one"] if moved else []
    with one_error(f"the target tokenizer {target.name} cannot encode text"):
        changes += ["cuts text otherwise"] if _cuts(loaded) != _own_cuts(target) else []
    if changes:
        LOG.warning(
            "beside the base model's config.json, AutoTokenizer reads the target tokenizer as %s, which %s. "
            "As the target has it, the output's tokenizer is loaded by PreTrainedTokenizerFast.from_pretrained",
            type(loaded).__name__,
            " and ".join(changes),
        )
    whole = sorted([*(target.definition.get("added_tokens") or ()), *added], key=lambda entry: entry["id"])
    return replace(target, definition={**target.definition, "added_tokens": whole}) if added else target


def minimal_config(target: TokenizerFiles, base: TokenizerFiles) -> dict[str, Any]:
    """For a bare tokenizer.json: the base model's roles, as far as the same tokens exist, then its own.

    A folder without this file may still have roles: from its special_tokens_map.json or its model's class.
    """
    shared = {role: token for role, token in base.role_tokens.items() if token in target.vocabulary.by_spelling}
    roles = {f"{role}_token": token for role, token in {**shared, **target.role_tokens}.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **roles}


def _compare(target: TokenizerFiles, loaded: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Tokens that the loaded one adds under free ids, and the tokens whose ids are others in it."""
    known, taken = target.vocabulary.by_spelling, target.vocabulary.by_id
    new = [entry for entry in added_tokens(loaded) if entry["content"] not in known]
    moved = [token for token, i in sorted(loaded.get_vocab().items()) if token in known and known[token].id != i]
    moved += [entry["content"] for entry in new if entry["id"] in taken]
    return [entry for entry in new if entry["id"] not in taken], moved


def _own_cuts(target: TokenizerFiles) -> list[list[int]]:
    try:
        return _cuts(auto_tokenizer(target.folder))
    except TokenAdaptError:  # a bare tokenizer.json, or one whose class is remote code
        library = target.fast_tokenizer()
        return [library.encode(text, add_special_tokens=False).ids for text in _texts()]


def _cuts(loaded: Any) -> list[list[int]]:
    with quiet_transformers():  # the texts may be longer than the model_max_length
        return [loaded(text, add_special_tokens=False).input_ids for text in _texts()]


def _texts() -> list[str]:
    return [text for name in ("hard", "code", "prose") for text in builtin_text(name).documents]
