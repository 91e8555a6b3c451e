"""Texts that the user names: a file, a folder, jsonl with a field, a dataset of the hub.

``NAME=PATH`` or ``NAME=hf:ID``, with ``,field=...``, ``,config=...``, ``,split=...`` behind it where needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.evaluation.texts.text_set import TextSet

_SETTING = re.compile(r",(field|config|split)=([^,]*)$")
MAX_DATASET_DOCUMENTS = 1000
"""Documents read of a hub dataset, which may be larger than any disk."""


def read_text(argument: str, *, option: str = "--text") -> TextSet:
    """Read what an option such as ``--text`` names.

    A file is one document; a folder is one document per file below it, in the order of their paths;
    of ``.jsonl``, every line is one document, whose text is in `field` (``text`` by default).

    Raises:
        TokenAdaptError: the argument has another form, nothing is there, or it holds no text.
    """
    name, equals, source = argument.partition("=")
    if not (name and equals and source):
        raise TokenAdaptError(f"{option} takes NAME=PATH or NAME=hf:ID, not {argument!r}")
    place, settings = split_settings(source)
    field = settings.get("field", "text")
    if place.startswith("hf:"):
        return TextSet.of(name, _dataset(place.removeprefix("hf:"), field, settings), source)
    path = Path(place)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return TextSet.of(name, (d for file in files for d in _documents(file, field)), source)
    if not path.is_file():
        raise TokenAdaptError(f"{option} {name}: there is no file or folder {place!r}")
    return TextSet.of(name, _documents(path, field), source)


def split_settings(source: str) -> tuple[str, dict[str, str]]:
    """The place that a source names, and the settings behind it.

    >>> split_settings("hf:some/texts,config=en,field=body")
    ('hf:some/texts', {'field': 'body', 'config': 'en'})
    """
    settings: dict[str, str] = {}
    while match := _SETTING.search(source):
        settings.setdefault(match[1], match[2])
        source = source[: match.start()]
    return source, settings


def _documents(file: Path, field: str) -> Iterator[bytes | str]:
    if file.suffix != ".jsonl":
        yield file.read_bytes()
        return
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise TokenAdaptError(f"{file}, line {number}, is not valid JSON: {error}") from error
        yield field_text(record, field, f"{file}, line {number},")


def field_text(record: Any, field: str, where: str) -> str:
    """The text in a field of a record.

    Raises:
        TokenAdaptError: there is no text; the message starts with `where` and lists the fields.
    """
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        known = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise TokenAdaptError(f"{where} has no text in the field {field!r} (it has {known}); set it with ,field=NAME")
    return value


def _dataset(name: str, field: str, settings: dict[str, str]) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise TokenAdaptError(
            "texts from the hub need the datasets package: pip install 'mergekit-tokenadapt[datasets]'"
        ) from error
    split = settings.get("split", "train")
    try:
        rows = load_dataset(name, settings.get("config"), split=split, streaming=True)
        for number, record in enumerate(rows.take(MAX_DATASET_DOCUMENTS), start=1):
            yield field_text(record, field, f"{name}, row {number},")
    except TokenAdaptError:
        raise
    except Exception as error:  # the library raises whatever the network and the file formats raise
        reason = first_line(error)
        raise TokenAdaptError(f"the dataset {name!r}, split {split!r}, cannot be read: {reason}") from error
