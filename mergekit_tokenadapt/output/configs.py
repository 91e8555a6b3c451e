"""JSON files of the output folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

from mergekit_tokenadapt.file_writing import write_file

Path = tuple[str, ...]
"""Where a value is in nested configs."""


def write_json(file: File, content: Mapping[str, Any]) -> None:
    """Write a JSON file the way transformers does: two spaces, a final newline."""
    write_file(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def set_nested(config: dict[str, Any], key: str, value: int) -> None:
    """Set a value of a nested config, in place; `key` is a path such as ``text_config.vocab_size``."""
    *sections, name = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[name] = value


def nested_sections(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """A config and those in it, with where they are."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from nested_sections(value, (*path, key))
