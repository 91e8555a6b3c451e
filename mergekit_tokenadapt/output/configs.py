"""JSON files of the output folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path as File
from typing import Any

from mergekit_tokenadapt.storage.file_writing import write_file

VOCAB_SIZE = "vocab_size"
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


def value_at(config: Mapping[str, Any], path: Path) -> Any:
    """A value of a nested config; None where there is none."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def nested_sections(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """A config and those in it, with where they are."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from nested_sections(value, (*path, key))


def foreign_sections(config: Mapping[str, Any], sizes: Collection[Path]) -> frozenset[Path]:
    """Nested configs that number the tokens of another vocabulary: they state a `vocab_size` of their own.

    Args:
        config: the content of a config.json.
        sizes: the keys that state the language model's number of rows, as paths.
    """
    return frozenset(
        path
        for path, section in nested_sections(config)
        if path
        and type(section.get(VOCAB_SIZE)) is int
        and (*path, VOCAB_SIZE) not in sizes
        and not any(size[: len(path)] == path for size in sizes)
    )
