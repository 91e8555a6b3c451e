"""Translate the base model's processor configs (for images and sound), which name tokens and token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.output.translation import Lost, Translation, translate
from mergekit_tokenadapt.tokenizer.files import read_json

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def write_processors(base: Path, out: Path, ids: SpecialIds) -> list[Translation]:
    """Write the base model's processor configs into the output, with the target's ids and spellings.

    Args:
        base: the base model's folder.
        out: the output folder.
        ids: translates the ids.

    Returns:
        The translation of each file, which holds the lost tokens for the warning.
    """
    done = []
    for name in PROCESSOR_FILES:
        if content := read_json(base / name):
            translation = translate_spellings(translate(content, ids), ids)
            write_json(out / name, translation.config)
            done.append(translation)
    return done


def translate_spellings(translation: Translation, ids: SpecialIds) -> Translation:
    """Replace the spellings of tokens in a config by the target's, as in ``"image_token": "<image>"``."""
    lost: list[Lost] = []
    return replace(translation, config=_section(translation.config, ids, (), lost), lost=(*translation.lost, *lost))


def _section(content: Mapping[str, Any], ids: SpecialIds, path: tuple[str, ...], lost: list[Lost]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in content.items():
        where = (*path, key)
        if isinstance(value, Mapping):
            result[key] = _section(value, ids, where, lost)
        elif isinstance(value, str) and key.endswith("_token") and value in ids.base.by_spelling:
            old = ids.base.by_spelling[value]
            new = ids.new_token(old.id)
            result[key] = value if new is None else new.spelling
            if new is None:
                lost.append(Lost(where, (old.id,), (value,), is_whole=True))
        else:
            result[key] = value
    return result
