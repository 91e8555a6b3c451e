"""Read texts that the user names: a file, a folder, jsonl with a field, or a dataset of the hub.

A text is given as ``PATH`` or ``hf:ID``, or with a name as ``NAME=PATH`` or ``NAME=hf:ID``. It may be followed by
``,field=...``, ``,config=...`` and ``,split=...``. All commands use this syntax.
"""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.storage.input_files import local_path
from mergekit_tokenadapt.texts.text_set import TextSet

LOG = logging.getLogger(__name__)

_SETTING = re.compile(r",(field|config|split)=([^,]*)$")
"""Matches the last setting at the end of a source."""
BINARY_PROBE = 4096
"""A file with a zero byte among its first `BINARY_PROBE` bytes is binary."""
ELSEWHERE = ("hf:", "ray:")
"""Prefixes of places that are not files of this machine."""
UNREADABLE = (OSError, EOFError, zlib.error)
"""What is raised where a file cannot be opened, read or unpacked."""
MAX_DATASET_DOCUMENTS = 1000
"""Number of documents that are read of a hub dataset, which may be larger than any disk."""


@dataclass(frozen=True)
class TextPlace:
    """A text that an option names."""

    name: str
    """The name that the user gave, or the name of the file or folder."""
    source: str
    """The place and its settings, as the user wrote them."""
    place: str
    """A path, or ``hf:`` and the id of a dataset."""
    settings: Mapping[str, str]
    """Values of ``field``, ``config`` and ``split``."""
    is_named: bool = True
    """Whether the user gave the name."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the place is not a file or folder of this machine."""
        return self.place.startswith(ELSEWHERE)

    def check(self, option: str) -> None:
        """Check before the first slow step that there is a text to read.

        Args:
            option: the option that gave the text. Error messages start with it.

        Raises:
            TokenAdaptError: the file or folder does not exist, or the file is empty or binary.
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
            raise TokenAdaptError(f"{option} {self.name}: {self.place!r} contains zero bytes, so it is not a text")


def parse_text(argument: str, *, option: str = "--text") -> TextPlace:
    """Parse an argument such as ``NAME=PATH`` or ``PATH``. An existing path may contain a ``=``.

    >>> parse_text("law=hf:some/texts,split=test").name, parse_text("./no/such.jsonl,field=body").name
    ('law', 'such')

    Raises:
        TokenAdaptError: the argument has another form.
    """
    place, settings = split_settings(argument)
    name, equals, named = place.partition("=")
    if not equals or place.startswith(ELSEWHERE) or local_path(place).exists():
        if place:
            return TextPlace(_own_name(place), argument, str(local_path(place)), settings, is_named=False)
    elif name and named:
        return TextPlace(name, argument.partition("=")[2], str(local_path(named)), settings)
    raise TokenAdaptError(f"{option} takes NAME=PATH or PATH (or hf:ID), not {argument!r}")


def _own_name(place: str) -> str:
    if place.startswith(ELSEWHERE):
        return place.partition(":")[2]
    path = Path(place).resolve()
    return path.name if path.is_dir() else path.name.partition(".")[0] or path.name


def is_binary(file: Path) -> bool:
    """Return whether there is a zero byte among the first `BINARY_PROBE` bytes of a file."""
    with file.open("rb") as opened:
        return b"\0" in opened.read(BINARY_PROBE)


def open_text(file: Path) -> IO[bytes]:
    """Open a file, decompressed if its name ends in ``.gz``. See `UNREADABLE` for what that and reading may raise."""
    return cast("IO[bytes]", gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def read_text(argument: str, *, option: str = "--text", name: str | None = None) -> TextSet:
    """Read the text that an option such as ``--text`` names.

    A file is one document. A folder has one document for each file below it, in the order of their paths, without
    hidden and binary ones. A ``.jsonl`` file has one document in each line; `field` names the key of its text (``text``
    by default). A file whose name ends in ``.gz`` is decompressed.

    Args:
        argument: see `parse_text`.
        option: the option that gave the argument, for error messages.
        name: name of the result; None takes the argument's.

    Raises:
        TokenAdaptError: the argument has another form, its place does not exist, or there is no text in it.
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
    if not path.is_dir():
        content = _text_content(path)
        if content is None:
            raise TokenAdaptError(
                f"{option} {text.name}: {text.place!r} is not a text in UTF-8: it contains zero bytes, or is UTF-16"
            )
        documents = _documents(path, content, field)
    else:
        documents = _below(path, field, f"{option} {text.name}")
    found = TextSet.of(text.name, documents, text.source)
    if found.num_repaired:
        LOG.warning(
            "%s %s: %d of %d documents are not UTF-8, or their JSON spells half a character (\\ud83d alone), and "
            "U+FFFD takes the place of what is wrong; convert the text, for instance with iconv",
            option,
            text.name,
            found.num_repaired,
            len(found.documents),
        )
    return found


def split_settings(source: str) -> tuple[str, dict[str, str]]:
    """Separate the place that a source names from the settings after it.

    >>> split_settings("hf:some/texts,config=en,field=body")
    ('hf:some/texts', {'field': 'body', 'config': 'en'})
    """
    settings: dict[str, str] = {}
    while match := _SETTING.search(source):
        settings.setdefault(match[1], match[2])
        source = source[: match.start()]
    return source, settings


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders in the order of their paths, without hidden files and folders."""
    # The order of a file system differs between machines; results should not.
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _text_content(file: Path) -> bytes | None:
    """Read a file, without a byte order mark. A binary file or one in UTF-16 gives None, and is not read to its end."""
    try:
        with open_text(file) as opened:
            start = opened.read(BINARY_PROBE)
            if b"\0" in start or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return None
            return (start + opened.read()).removeprefix(codecs.BOM_UTF8)
    except UNREADABLE as error:
        raise TokenAdaptError(f"{file} cannot be read: {first_line(error)}") from error


def _below(folder: Path, field: str, name: str) -> Iterator[bytes | str]:
    """Yield the documents of all files below a folder. A warning counts binary ones, which are left out."""
    binary = []
    for file in files_below(folder):
        content = _text_content(file)
        if content is None:
            binary.append(file)
        else:
            yield from _documents(file, content, field)
    if binary:
        LOG.warning(
            "%s: %d files are not read, because they contain zero bytes or are UTF-16: they are not text in UTF-8 "
            "(%s, for one)",
            name,
            len(binary),
            binary[0],
        )


def _documents(file: Path, content: bytes, field: str) -> Iterator[bytes | str]:
    if ".jsonl" in file.suffixes:
        yield from json_lines(content.splitlines(), field, file)
    else:
        yield content


def parsed_line(line: bytes | str, file: Path, number: int) -> Any:
    """Parse a line of a jsonl file.

    Raises:
        TokenAdaptError: it is not JSON; the message names file and line.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TokenAdaptError(f"{file}, line {number}, is not valid JSON: {first_line(error)}") from error


def json_lines(lines: Iterable[bytes | str], field: str, file: Path) -> Iterator[str]:
    """Yield the texts of the lines of a jsonl file.

    Raises:
        TokenAdaptError: a line is not JSON, or has no text in the field; the message names the line.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        yield _field_text(parsed_line(line, file, number), field, f"{file}, line {number},")


def _field_text(record: Any, field: str, where: str) -> str:
    """Return the text in a field of a record.

    Raises:
        TokenAdaptError: there is no text; the message starts with `where` and lists the fields.
    """
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        known = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise TokenAdaptError(f"{where} has no text in the field {field!r} (it has {known}); set it with ,field=NAME")
    return value


def dataset_texts(name: str, settings: Mapping[str, str], *, most: int | None = None) -> Iterator[str]:
    """Stream the texts of a dataset of the hub.

    Args:
        name: id of the dataset.
        settings: `field`, `config` and `split`.
        most: stop after this number of documents; None reads all.

    Raises:
        TokenAdaptError: the package `datasets` is not installed or cannot be imported, the dataset cannot be read, or
            it has no such field.
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
    except Exception as error:  # the library passes on exceptions of the network and of file formats
        reason = first_line(error)
        raise TokenAdaptError(f"the dataset {name!r}, split {split!r}, cannot be read: {reason}") from error
