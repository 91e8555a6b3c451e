"""Glossaries: files in which a user says in words what tokens mean.

A line gives a token a text: a synonym, a definition, a translation, or the name of its semantic type. The row of the
token is then made of the base tokens of its texts, whatever the method is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.terminal.tables import quoted
from mergekit_tokenadapt.texts.lines import numbered_lines
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.token_lookup import lookup
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.piece_weights import uniform

LOG = logging.getLogger(__name__)

JSON_LINES = (".jsonl", ".ndjson")
"""Suffixes of files with one JSON object a line. Any other file has columns that are separated by tabs."""
SHOWN = 3
"""Largest number of tokens that a warning names."""


@dataclass(frozen=True)
class GlossaryLine:
    """One line of a glossary."""

    number: int
    """Its number in the file, from 1."""
    token: str
    """The token's text or spelling, or its escaped form (see `token_lookup.find_token`)."""
    text: str
    weight: float
    """Weight of the text among all texts of the token, above 0."""


@dataclass(frozen=True)
class Glossary:
    """A glossary as it was read, before its tokens are looked up."""

    source: str
    """The file, as the user named it."""
    sha256: str
    """Hash of the file, in hexadecimal."""
    lines: tuple[GlossaryLine, ...]

    @classmethod
    def read(cls, source: str) -> Glossary:
        """Read a glossary from a file in UTF-8.

        Raises:
            TokenAdaptError: there is no such file, it is not UTF-8, it has no lines, or a line is malformed.
        """
        try:
            content = Path(source).read_bytes() if Path(source).is_file() else None
        except OSError as error:
            raise TokenAdaptError(f"glossary: {source} cannot be read: {error.strerror}") from error
        if content is None:
            raise TokenAdaptError(f"glossary: {source!r} is no file; give a file with lines of token, tab and text")
        parse = _from_json if Path(source).suffix in JSON_LINES else _from_columns
        lines = tuple(
            GlossaryLine(number, *_checked(source, number, parse(source, number, line)))
            for number, line in _text_lines(source, content)
        )
        if not lines:
            raise TokenAdaptError(f"glossary: {source} has no lines")
        return cls(source, hashlib.sha256(content).hexdigest(), lines)

    def describe(self) -> dict[str, Any]:
        """Return source, number of lines and hash, as the manifest states them."""
        return {"source": self.source, "lines": len(self.lines), "sha256": self.sha256}

    def define(self, target: Vocabulary, mapping: VocabularyMap, segmenter: Segmenter) -> GlossaryRows:
        """Return the rows of the glossary's tokens.

        Lines whose token is unknown or keeps another row are left out with a warning, and so are repeated lines and
        texts that the base tokenizer cannot express. If a token begins with a space, a space is put before its texts,
        so that they are segmented as inside a sentence.

        Args:
            target: the vocabulary that the model gets.
            mapping: how the vocabularies match.
            segmenter: segments texts into base tokens.

        Raises:
            TokenAdaptError: no line names a token of the target, two lines give one text different weights, or the
                recipe's `token_map` gives a token of the glossary a text.
        """
        texts = self._by_id(target, mapping)
        pairs = [(i, line) for i, lines in sorted(texts.items()) for line in lines]
        spaced = [b" " if target.by_id[i].bytes[:1] == b" " and line.text[0] != " " else b"" for i, line in pairs]
        pieces = segmenter.segment(
            [space + line.text.encode("utf-8") for space, (_, line) in zip(spaced, pairs, strict=True)]
        )
        empty = [line for (_, line), count in zip(pairs, pieces.counts, strict=True) if not count]
        self._warn(empty, "texts cannot be written in base tokens and are left out")
        has_pieces = pieces.counts > 0
        owners = np.array([i for i, _ in pairs], dtype=np.int64)
        ids = np.unique(owners[has_pieces])
        rows = np.searchsorted(ids, owners)
        weights = np.array([line.weight for _, line in pairs])
        totals = np.bincount(rows[has_pieces], weights[has_pieces], minlength=len(ids))
        means = uniform(pieces)
        of_text = means.rows.numpy()
        shares = torch.from_numpy(weights[of_text] / totals[rows[of_text]])
        composition = SparseRows.from_triplets(
            torch.from_numpy(rows[of_text]), means.ids, means.weights * shares, len(ids)
        )
        return GlossaryRows(ids, composition)

    def _by_id(self, target: Vocabulary, mapping: VocabularyMap) -> Mapping[int, list[GlossaryLine]]:
        """Return the lines about tokens that need a row, by target id, without repeated ones.

        Raises:
            TokenAdaptError: lines contradict each other or the `token_map`.
        """
        texts: dict[int, list[GlossaryLine]] = {}
        unknown, kept, repeated = [], [], []
        for line in self.lines:
            token = lookup(target, line.token)
            if token is None or token.id >= mapping.num_rows:
                unknown.append(line)
                continue
            if token.id in mapping.texts:
                raise TokenAdaptError(
                    f"glossary: {self.source}, line {line.number}: token_map gives {quoted(line.token)} a text as "
                    "well; take it out of one of them"
                )
            if mapping.reasons[token.id] != Reason.NEW:
                kept.append(line)
                continue
            lines = texts.setdefault(token.id, [])
            same = next((other for other in lines if other.text == line.text), None)
            if same is None:
                lines.append(line)
            elif same.weight == line.weight:
                repeated.append(line)
            else:
                raise TokenAdaptError(
                    f"glossary: {self.source}, lines {same.number} and {line.number} give the same text of "
                    f"{quoted(line.token)} the weights {same.weight:g} and {line.weight:g}; keep one"
                )
        if len(unknown) == len(self.lines):
            raise TokenAdaptError(
                f"glossary: none of the {len(unknown):,} lines of {self.source} names a token of the target, the first "
                f"one {quoted(unknown[0].token)}; a token that begins a word usually begins with a space"
            )
        self._warn(unknown, "lines name no token of the target and are left out")
        what = "lines are about tokens that keep the row of a base token, and are left out"
        self._warn(kept, what if texts else f"{what}; no line is about a new token")
        self._warn(repeated, "lines repeat another one and are left out")
        return texts

    def _warn(self, lines: Iterable[GlossaryLine], what: str) -> None:
        """Warn of lines that are left out; the first ones are named."""
        lines = list(lines)
        if not lines:
            return
        named = ", ".join(f"{quoted(line.token)} (line {line.number})" for line in lines[:SHOWN])
        more = ", ..." if len(lines) > SHOWN else ""
        LOG.warning("glossary: %s: %d of %d %s: %s%s", self.source, len(lines), len(self.lines), what, named, more)


@dataclass(frozen=True, eq=False)
class GlossaryRows:
    """The G rows that a glossary makes of old rows."""

    ids: np.ndarray
    """int64 [G]: the target ids of its tokens, ascending."""
    composition: SparseRows
    """The old rows and weights of each of the G rows."""


def _text_lines(source: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Return the number and the text of each line that is not empty.

    Raises:
        TokenAdaptError: a line is not UTF-8.
    """
    lines = numbered_lines(
        content,
        lambda number, place: (
            f"glossary: {source}, line {number} is not UTF-8 (byte {place} of the line); convert the file, for "
            "instance with iconv"
        ),
    )
    return ((number, text) for number, text in lines if text.strip())


def _from_columns(source: str, number: int, line: str) -> tuple[Any, ...]:
    """Return token, text and weight of a line of columns.

    Raises:
        TokenAdaptError: there are not two or three columns, or the third is no number.
    """
    columns = line.split("\t")
    if len(columns) not in (2, 3):
        raise TokenAdaptError(
            f"glossary: {source}, line {number} has {len(columns)} columns; write the token, a tab and the text, and "
            "after another tab a weight if you like"
        )
    if len(columns) == 2:
        return (*columns, 1.0)
    try:
        return *columns[:2], float(columns[2])
    except ValueError:
        raise TokenAdaptError(f"glossary: {source}, line {number}: the weight {columns[2]!r} is no number") from None


def _from_json(source: str, number: int, line: str) -> tuple[Any, ...]:
    """Return token, text and weight of a line of JSON.

    Raises:
        TokenAdaptError: the line is no JSON object with these keys.
    """
    wanted = 'write {"token": "...", "text": "..."}, and "weight": N if you like'
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TokenAdaptError(f"glossary: {source}, line {number} is not JSON ({error}); {wanted}") from error
    if not isinstance(entry, dict) or not {"token", "text"} <= entry.keys() <= {"token", "text", "weight"}:
        raise TokenAdaptError(f"glossary: {source}, line {number} has other keys than token, text and weight; {wanted}")
    return entry["token"], entry["text"], entry.get("weight", 1.0)


def _checked(source: str, number: int, fields: tuple[Any, ...]) -> tuple[str, str, float]:
    """Return token, text and weight of a line if they have the right types and values.

    Raises:
        TokenAdaptError: token or text is no string or empty, or the weight is not a number above 0.
    """
    token, text, weight = fields
    for name, value in (("token", token), ("text", text)):
        if not isinstance(value, str) or not value or (name == "text" and not value.strip()):
            raise TokenAdaptError(f"glossary: {source}, line {number}: the {name} is empty or no string")
    if type(weight) not in (int, float) or not 0 < weight < math.inf:
        raise TokenAdaptError(f"glossary: {source}, line {number}: the weight {weight!r} is not a number above 0")
    return token, text, float(weight)
