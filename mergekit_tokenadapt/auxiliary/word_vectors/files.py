"""Find out which format a file of word vectors has."""

from __future__ import annotations

import codecs

from mergekit_tokenadapt.auxiliary.word_vectors.fasttext import MAGIC, FastTextModel
from mergekit_tokenadapt.auxiliary.word_vectors.reading import WordVectors
from mergekit_tokenadapt.auxiliary.word_vectors.word2vec import BinaryVectors, TextVectors, opened
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.input_files import local_path

PROBE = 1 << 16
"""Bytes at the beginning of a file that decide on its format."""
TEXT_SUFFIXES = (".vec", ".txt")
"""Endings of names, before any ``.gz``, of files that are text whatever they hold."""


def open_word_vectors(name: str) -> WordVectors:
    """Open a file of word vectors, whose content decides on its format.

    Only the beginning is read, and of a fastText model the dictionary. A file that is not text in UTF-8 is binary,
    unless its name ends as a text's does: then the wrong encoding is reported.

    Args:
        name: path of the file.

    Raises:
        TokenAdaptError: there is no such file, or it is empty, packed in a way that cannot be read, or of no known
            format.
    """
    path = local_path(name)
    if not path.is_file():
        raise TokenAdaptError(f"word vectors: {name!r} is no file")
    with opened(path) as stream:
        start = stream.read(PROBE)
    if not start.strip():
        raise TokenAdaptError(f"word vectors: {name!r} is empty")
    if start.startswith(MAGIC):
        if path.suffix == ".gz":
            raise TokenAdaptError(f"word vectors: {name!r}: unpack the model first, for instance with gunzip")
        return FastTextModel(path)
    is_named_text = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if is_named_text in TEXT_SUFFIXES or _is_text(start):
        return TextVectors(path)
    return BinaryVectors(path)


def _is_text(start: bytes) -> bool:
    """Return whether the beginning of a file is UTF-8 without zero bytes. A character may be cut at its end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=False)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start
