"""Files of the base model beside its configs that name tokens or their ids: processors of images and sound."""

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
    """Carry over the base's processor configs, with the target's ids and spellings in them.

    Returns:
        What became of each, to be warned of.
    """
    done = []
    for name in PROCESSOR_FILES:
        if content := read_json(base / name):
            translation = translate_spellings(translate(content, ids), ids)
            write_json(out / name, translation.config)
            done.append(translation)
    return done


def translate_spellings(translation: Translation, ids: SpecialIds) -> Translation:
    """Give the target's spelling to tokens that are named by theirs, as in ``"image_token": "<image>"``."""
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
