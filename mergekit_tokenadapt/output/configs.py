"""Write JSON files of the output folder, and find values in nested configs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path as File
from typing import Any

from mergekit_tokenadapt.storage.file_writing import write_file

VOCAB_SIZE = "vocab_size"
Path = tuple[str, ...]
"""Keys that lead to a value in nested configs: ``("text_config", "vocab_size")``."""


def write_json(file: File, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does, with an indent of two spaces and a final newline.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def set_nested(config: dict[str, Any], key: str, value: int) -> None:
    """Set a value of a nested config, in place. `key` joins the path with dots: ``text_config.vocab_size``."""
    *sections, name = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[name] = value


def value_at(config: Mapping[str, Any], path: Path) -> Any:
    """Return a value of a nested config; None if the path does not exist."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def nested_sections(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the path and content of a config and of all configs nested in it."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from nested_sections(value, (*path, key))


def foreign_sections(config: Mapping[str, Any], sizes: Collection[Path]) -> frozenset[Path]:
    """Find nested configs whose token ids belong to another vocabulary, because they state another `vocab_size`.

    Args:
        config: the content of a config.json.
        sizes: paths of the keys that state the language model's number of rows.

    Returns:
        Paths of these configs.
    """
    return frozenset(
        path
        for path, section in nested_sections(config)
        if path
        and type(section.get(VOCAB_SIZE)) is int
        and (*path, VOCAB_SIZE) not in sizes
        and not any(size[: len(path)] == path for size in sizes)
    )
