"""Bilingual dictionaries, and the rotation that they give between two files of word vectors.

Letters: A dimensions, P pairs of words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.linalg import orthogonal_procrustes

from mergekit_tokenadapt.auxiliary.word_vectors.reading import WordVectors
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.threads import one_thread
from mergekit_tokenadapt.texts.lines import numbered_lines

LOG = logging.getLogger(__name__)


def read_dictionary(name: str) -> list[tuple[str, str]]:
    """Read pairs of a word and its translation: two columns, separated by a tab, or by a space as in MUSE's files.

    Raises:
        TokenAdaptError: there is no such file, it has no pairs or is not UTF-8, or a line has no two columns.
    """
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise TokenAdaptError(f"dictionary: {name!r} cannot be read: {error.strerror}") from error
    lines = numbered_lines(
        content,
        lambda number, _place: (
            f"dictionary: {name!r}, line {number}: not UTF-8; convert the file, for instance with iconv"
        ),
    )
    pairs = []
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        columns = [column.strip() for column in text.split("\t")] if "\t" in text else text.split()
        if len(columns) != 2 or not all(columns):
            raise TokenAdaptError(
                f"dictionary: {name!r}, line {number}: write a word of the base model's language, a tab and its "
                "translation"
            )
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise TokenAdaptError(f"dictionary: {name!r} has no lines")
    return pairs


def rotation(
    base: WordVectors, target: WordVectors, pairs: Sequence[tuple[str, str]], *, most: int | None = None
) -> np.ndarray:
    """Return the orthogonal matrix that turns base vectors into target vectors best, float64 [A, A].

    It minimises ``sum of |b R - t|^2`` over the pairs whose words both have vectors b and t (orthogonal Procrustes). As
    in WECHSEL's code, each pair stands for nine: both words as they are, in lower case and in title case.

    Args:
        base: word vectors in the language of the first words.
        target: word vectors of the same dimensions in the language of the second words.
        pairs: words and their translations.
        most: words to read of each file, at most.

    Raises:
        TokenAdaptError: a file is malformed, or no pair has vectors.
    """
    forms = [pair for words in pairs for pair in _forms(*words)]
    of_base = base.of_words({word for word, _ in forms}, most)
    of_target = target.of_words({word for _, word in forms}, most)
    known = [(of_base[b], of_target[t]) for b, t in forms if b in of_base and t in of_target]
    if not known:
        raise TokenAdaptError(
            f"dictionary: none of its {len(pairs):,} pairs has its first word in {str(base.path)!r} and its second in "
            f"{str(target.path)!r}; are the languages swapped?"
        )
    if len(known) < base.dimensions:
        LOG.warning(
            "dictionary: only %d pairs of words have vectors, fewer than the %d dimensions: the alignment is a guess",
            len(known),
            base.dimensions,
        )
    left_PA, right_PA = (np.array(vectors, dtype=np.float64) for vectors in zip(*known, strict=True))
    with one_thread():
        turned, _ = orthogonal_procrustes(left_PA, right_PA)
    return np.asarray(turned)


def _forms(word: str, translation: str) -> Iterator[tuple[str, str]]:
    """Yield the pair with each word as it is, in lower case and in title case."""
    for one in (word, word.lower(), word.title()):
        for other in (translation, translation.lower(), translation.title()):
            yield one, other
