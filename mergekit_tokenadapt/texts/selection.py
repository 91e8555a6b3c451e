"""Read the texts that the options of an evaluation command name."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.texts.sources import parse_text, read_text
from mergekit_tokenadapt.texts.text_set import TextSet, check_names

COMPARED_BYTES = 2000
"""Default number of bytes that `compare` scores of each text."""


def read_texts(texts: Sequence[str], builtin: Sequence[str], max_bytes: int) -> list[TextSet]:
    """Read the texts that the options name. If they name none, return all built-in texts.

    Args:
        texts: values of ``--text``, see `parse_text`.
        builtin: names of built-in texts.
        max_bytes: number of bytes to keep of each text, see `TextSet.limited`; 0 keeps all.

    Raises:
        TokenAdaptError: a text cannot be read or is empty, or two texts have one name.
    """
    names = builtin or (() if texts else tuple(BUILTIN))
    places = [parse_text(argument) for argument in texts]
    check_names([*names, *(place.name for place in places)])
    for place in places:  # all places are checked before the first text is read, because reading may take long
        place.check("--text")
    sets = [builtin_text(name) for name in names] + [read_text(argument) for argument in texts]
    return [text.limited(max_bytes) for text in sets]
