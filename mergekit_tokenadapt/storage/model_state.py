"""Tell whether a model folder has changed, so that partial results of another state are not taken up."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mergekit_tokenadapt.storage.hashing import add_contents
from mergekit_tokenadapt.storage.input_files import SUFFIXES


def state_of(folder: Path, *, by_content: bool = False) -> str:
    """Return a SHA-256 in hexadecimal that changes when a config, the tokenizer or the weights in a folder change.

    Args:
        folder: the folder of a model.
        by_content: hash the bytes of all files. Otherwise a file counts by its size and the time of its last change,
            because hashing gigabytes of weights would take long; a folder that is written anew then gets another hash.
    """
    digest = hashlib.sha256()
    # Templates may lie in a folder of their own.
    files = [path for path in (*folder.iterdir(), *folder.glob("*/*.jinja")) if path.suffix in SUFFIXES]
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.relative_to(folder)} {status.st_size} ".encode())
        if by_content:
            add_contents(digest, file)
        else:
            digest.update(f"{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
