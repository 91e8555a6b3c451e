"""Cutting the true text of new tokens into pieces of the old vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import one_error
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, TokenKind, Vocabulary, components

BATCH = 8192
"""Texts cut at a time: what the library gives back for one takes about a kilobyte."""


@dataclass(frozen=True)
class Pieces:
    """For each of N texts, the old tokens it is made of, in compressed sparse rows.

    The pieces of text n are ``ids[indptr[n]:indptr[n + 1]]``; a text can have none.
    """

    indptr: np.ndarray
    """int64 [N + 1]"""
    ids: np.ndarray
    """int64 [number of pieces]: ids in the old vocabulary."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.indptr[index] : self.indptr[index + 1]]

    @property
    def counts(self) -> np.ndarray:
        """Number of pieces of each text, int64 [N]."""
        return np.diff(self.indptr)

    @property
    def rows(self) -> np.ndarray:
        """For each piece, the text it belongs to, int64 [number of pieces]."""
        return np.repeat(np.arange(len(self)), self.counts)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Pieces:
        """Pack a list of ids per text.

        >>> Pieces.from_lists([[7, 8], [], [9]]).indptr.tolist()
        [0, 2, 2, 3]
        """
        lists = list(lists)
        indptr = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=indptr[1:])
        flat = [i for ids in lists for i in ids]
        return cls(indptr, np.array(flat, dtype=np.int64))


class Segmenter:
    """The old tokenizer, cutting any text the way it would inside a longer one.

    Differences from plain encoding: no special tokens are added or recognised, and no SentencePiece
    dummy space is put before the text, so that the pieces of ``"ing"`` do not start with a space.

    Args:
        definition: the old tokenizer's `tokenizer.json`.
        vocabulary: its vocabulary.
        num_rows: rows that the old matrices have. Tokens with ids beyond them are not used as
            pieces: their bytes are taken one by one instead.
    """

    def __init__(self, definition: Definition, vocabulary: Vocabulary, num_rows: int | None = None) -> None:
        with one_error("the base tokenizer cannot be used on the texts of new tokens"):
            self._tokenizer = plain_tokenizer(definition, vocabulary)
            unknown = unknown_ids(definition, vocabulary)
        self.definition = definition
        self._vocabulary = vocabulary
        self._num_rows = vocabulary.num_ids if num_rows is None else num_rows
        self._excluded = unknown | set(vocabulary.ids(TokenKind.SPECIAL).tolist())

    def cut(self, contents: Sequence[bytes]) -> Pieces:
        """The old tokens that make up each of the given byte strings.

        Content that is not valid UTF-8 is cut into single bytes. What the old vocabulary cannot
        express (its unknown token, or a byte that it lacks) is left out.
        """
        texts: list[str] = []
        places: list[int] = []
        lists: list[list[int]] = [[] for _ in contents]
        for n, content in enumerate(contents):
            try:
                texts.append(content.decode("utf-8"))
                places.append(n)
            except UnicodeDecodeError:
                lists[n] = self._byte_pieces(content)
        for start in range(0, len(texts), BATCH):
            with one_error("the base tokenizer cannot cut the texts of new tokens"):
                encodings = self._tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
            for place, encoding in zip(places[start : start + BATCH], encodings, strict=True):
                lists[place] = self._usable(encoding.ids)
        return Pieces.from_lists(lists)

    def _usable(self, ids: list[int]) -> list[int]:
        if all(i < self._num_rows and i not in self._excluded for i in ids):
            return ids
        usable: list[int] = []
        for i in ids:
            if i < self._num_rows:
                usable += [] if i in self._excluded else [i]
            elif token := self._vocabulary.by_id.get(i):
                usable += self._byte_pieces(token.bytes)
        return usable

    def _byte_pieces(self, content: bytes) -> list[int]:
        ids = (self._vocabulary.single_bytes.get(byte) for byte in content)
        return [i for i in ids if i is not None and i < self._num_rows]


def plain_tokenizer(definition: Definition, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer as it works inside a text: no dummy space, and special tokens are not recognised."""
    plain = _without_specials(without_dummy_space(definition), vocabulary)
    return tokenizer_of(plain)


def unknown_ids(definition: Definition, vocabulary: Vocabulary) -> frozenset[int]:
    """Ids of the model's unknown token, which stands for no text at all."""
    model = definition["model"]
    if model.get("unk_id") is not None:
        return frozenset([model["unk_id"]])
    token = vocabulary.by_spelling.get(model.get("unk_token") or "")
    return frozenset([token.id]) if token and token.kind is not TokenKind.BYTE else frozenset()


def without_dummy_space(definition: Definition) -> dict[str, Any]:
    """A copy of the definition that puts nothing before or around a text."""
    copy: dict[str, Any] = json.loads(json.dumps({k: v for k, v in definition.items() if k != "model"}))
    copy |= {"model": definition["model"], "post_processor": None, "truncation": None, "padding": None}
    copy["normalizer"] = _without(copy.get("normalizer"), "Prepend")
    if any(part["type"] == "Metaspace" for part in components(copy.get("pre_tokenizer"))):
        # T5 splits at spaces, dropping them, and has the Metaspace put them back: that would now not happen.
        copy["pre_tokenizer"] = _without(copy["pre_tokenizer"], "WhitespaceSplit")
    for part in [*components(copy.get("normalizer")), *components(copy.get("pre_tokenizer"))]:
        if "add_prefix_space" in part:
            part["add_prefix_space"] = False  # type: ignore[index]
        if "prepend_scheme" in part:
            part["prepend_scheme"] = "never"  # type: ignore[index]
    return copy


def _without_specials(definition: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """A copy of the definition that takes the strings of special tokens for ordinary text."""
    special = set(vocabulary.ids(TokenKind.SPECIAL).tolist())
    added = [entry for entry in definition.get("added_tokens") or () if entry["id"] not in special]
    model = dict(definition["model"])
    if isinstance(model["vocab"], list):
        # Unigram looks its pieces up in the text: those of special tokens are given an unlikely spelling.
        pieces = enumerate(model["vocab"])
        model["vocab"] = [[f"\uffff{i}" if i in special else piece, score] for i, (piece, score) in pieces]
        # An added token beyond them would be given the next free id, not its own.
        contents = {entry["id"]: entry["content"] for entry in added}
        beyond = range(len(model["vocab"]), max(contents, default=-1) + 1)
        lowest = min((score for _, score in model["vocab"]), default=0.0)
        model["vocab"] += [[contents.get(i, f"\uffff{i}"), lowest] for i in beyond]
    else:
        # An added token that is no entry of the model would be given the next free id, not its own.
        model["vocab"] = {**model["vocab"], **{entry["content"]: entry["id"] for entry in added}}
    return definition | {"model": model, "added_tokens": added}


def _without(part: Mapping[str, Any] | None, unwanted: str) -> Mapping[str, Any] | None:
    """A normalizer or pre-tokenizer without its members of one type."""
    if part is None or part["type"] == unwanted:
        return None
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            members = [_without(member, unwanted) for member in part[key]]
            return {**part, key: [member for member in members if member is not None]}
    return part
