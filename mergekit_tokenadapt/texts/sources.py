"""Texts that the user names: a file, a folder, jsonl with a field, a dataset of the hub.

``PATH`` or ``hf:ID``, or with a name of one's own ``NAME=PATH`` or ``NAME=hf:ID``; with ``,field=...``,
``,config=...``, ``,split=...`` behind it where needed. Every command reads its texts by this one spelling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.texts.text_set import TextSet

_SETTING = re.compile(r",(field|config|split)=([^,]*)$")
BINARY_PROBE = 4096
"""A file with a zero byte among its first ones is no text."""
ELSEWHERE = ("hf:", "ray:")
"""Beginnings of places that are no files here."""
MAX_DATASET_DOCUMENTS = 1000
"""Documents read of a hub dataset, which may be larger than any disk."""


@dataclass(frozen=True)
class TextPlace:
    """A text that an option names."""

    name: str
    """As the user gave it, or that of the file or folder."""
    source: str
    """The place and its settings, as the user wrote them."""
    place: str
    settings: Mapping[str, str]
    is_named: bool = True
    """Whether the name was given."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is no file or folder of this machine."""
        return self.place.startswith(ELSEWHERE)

    def check(self, option: str) -> None:
        """Find out before the first slow step that there is nothing to read.

        Raises:
            TokenAdaptError: there is no such file or folder, or the file is empty or no text.
        """
        path = Path(self.place)
        if self.is_elsewhere or path.is_dir():
            return
        if not path.is_file():
            what = f"{option} {self.name}:" if self.is_named else f"{option} takes NAME=PATH or PATH, and"
            raise TokenAdaptError(f"{what} there is no file or folder {self.place!r}")
        if not path.stat().st_size:
            raise TokenAdaptError(
                f"{option} {self.name}: the text {self.place!r} is empty: there is nothing to score or learn"
            )
        if path.suffix != ".gz" and is_binary(path):
            raise TokenAdaptError(f"{option} {self.name}: {self.place!r} holds zero bytes, and so is no text")


def parse_text(argument: str, *, option: str = "--text") -> TextPlace:
    """What an argument such as ``NAME=PATH`` or ``PATH`` names. A path that is there may hold a ``=``.

    >>> parse_text("law=hf:some/texts,split=test").name, parse_text("./no/such.jsonl,field=body").name
    ('law', 'such')

    Raises:
        TokenAdaptError: the argument has another form.
    """
    place, settings = split_settings(argument)
    name, equals, named = place.partition("=")
    if not equals or place.startswith(ELSEWHERE) or Path(place).exists():
        if place:
            return TextPlace(_own_name(place), argument, place, settings, is_named=False)
    elif name and named:
        return TextPlace(name, argument.partition("=")[2], named, settings)
    raise TokenAdaptError(f"{option} takes NAME=PATH or PATH (or hf:ID), not {argument!r}")


def _own_name(place: str) -> str:
    if place.startswith(ELSEWHERE):
        return place.partition(":")[2]
    path = Path(place).resolve()
    return path.name if path.is_dir() else path.name.partition(".")[0] or path.name


def is_binary(file: Path) -> bool:
    """Whether a file has a zero byte among its first ones."""
    with file.open("rb") as opened:
        return b"\0" in opened.read(BINARY_PROBE)


def read_text(argument: str, *, option: str = "--text", name: str | None = None) -> TextSet:
    """Read what an option such as ``--text`` names, by `parse_text`.

    A file is one document; a folder is one document per file below it, in the order of their paths;
    of ``.jsonl``, every line is one document, whose text is in `field` (``text`` by default).

    Args:
        argument: see `parse_text`.
        option: named in errors.
        name: of the result; by default that of the argument.

    Raises:
        TokenAdaptError: the argument has another form, nothing is there, or it holds no text.
    """
    text = parse_text(argument, option=option)
    text = text if name is None else replace(text, name=name, is_named=True)
    text.check(option)
    field = text.settings.get("field", "text")
    if text.place.startswith("hf:"):
        texts = dataset_texts(text.place.removeprefix("hf:"), text.settings, most=MAX_DATASET_DOCUMENTS)
        return TextSet.of(text.name, texts, text.source)
    if text.is_elsewhere:
        raise TokenAdaptError(
            f"{option}: {text.place}: only supertokens train and extend read Ray datasets; "
            "give a file, a folder or jsonl"
        )
    path = Path(text.place)
    files = files_below(path) if path.is_dir() else [path]
    return TextSet.of(text.name, (d for file in files for d in _documents(file, field)), text.source)


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
