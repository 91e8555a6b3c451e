"""Texts that the user names: a file, a folder, jsonl with a field, a dataset of the hub.

``NAME=PATH`` or ``NAME=hf:ID``, with ``,field=...``, ``,config=...``, ``,split=...`` behind it where needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.auxiliary.extras import importing
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
        texts = dataset_texts(place.removeprefix("hf:"), settings, most=MAX_DATASET_DOCUMENTS)
        return TextSet.of(name, texts, source)
    path = Path(place)
    if path.is_dir():
        return TextSet.of(name, (d for file in files_below(path) for d in _documents(file, field)), source)
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


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders but hidden ones, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def _documents(file: Path, field: str) -> Iterator[bytes | str]:
    if file.suffix != ".jsonl":
        yield file.read_bytes()
        return
    yield from json_lines(file.read_bytes().splitlines(), field, file)


def json_lines(lines: Iterable[bytes | str], field: str, file: Path) -> Iterator[str]:
    """The texts of the lines of a jsonl file.

    Raises:
        TokenAdaptError: a line is no JSON, or has no text in the field; the message names it.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise TokenAdaptError(f"{file}, line {number}, is not valid JSON: {error}") from error
        yield _field_text(record, field, f"{file}, line {number},")


def _field_text(record: Any, field: str, where: str) -> str:
    """The text in a field of a record.

    Raises:
        TokenAdaptError: there is no text; the message starts with `where` and lists the fields.
    """
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        known = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise TokenAdaptError(f"{where} has no text in the field {field!r} (it has {known}); set it with ,field=NAME")
    return value


def dataset_texts(name: str, settings: Mapping[str, str], *, most: int | None = None) -> Iterator[str]:
    """The texts of a dataset of the hub, streamed.

    Args:
        name: of the dataset.
        settings: `field`, `config` and `split`.
        most: stop after so many.

    Raises:
        TokenAdaptError: the package is not installed or does not work, the dataset cannot be read, or it has no
            such field.
    """
    with importing("datasets", extra="datasets", wanted_by="a text from the hub"):
        from datasets import load_dataset
    field, split = settings.get("field", "text"), settings.get("split", "train")
    try:
        rows = load_dataset(name, settings.get("config"), split=split, streaming=True)
        for number, record in enumerate(rows if most is None else rows.take(most), start=1):
            yield _field_text(record, field, f"{name}, row {number},")
    except TokenAdaptError:
        raise
    except Exception as error:  # the library raises whatever the network and the file formats raise
        reason = first_line(error)
        raise TokenAdaptError(f"the dataset {name!r}, split {split!r}, cannot be read: {reason}") from error
