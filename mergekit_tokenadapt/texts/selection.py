"""The texts that a user names for an evaluation: files, folders, hub datasets and built-in ones."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.texts.sources import parse_text, read_text
from mergekit_tokenadapt.texts.text_set import TextSet, check_names

COMPARED_BYTES = 2000
"""Bytes of each text that `compare` scores, by default."""


def read_texts(texts: Sequence[str], builtin: Sequence[str], max_bytes: int) -> list[TextSet]:
    """The texts that the options name; all built-in ones where they name none."""
    names = builtin or (() if texts else tuple(BUILTIN))
    places = [parse_text(argument) for argument in texts]
    check_names([*names, *(place.name for place in places)])
    for place in places:  # all of them, before the first one, which may be long, is read
        place.check("--text")
    sets = [builtin_text(name) for name in names] + [read_text(argument) for argument in texts]
    return [text.limited(max_bytes) for text in sets]
