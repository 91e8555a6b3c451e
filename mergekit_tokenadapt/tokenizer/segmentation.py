"""Segment the texts of new tokens into pieces, that is, into tokens of the old vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import one_error
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, TokenKind, Vocabulary, components

BATCH = 8192
"""Number of texts segmented at a time. The library's result for one text takes about a kilobyte of memory."""


@dataclass(frozen=True)
class Pieces:
    """The pieces (old tokens) of each of N texts, in compressed sparse row (CSR) format.

    The pieces of text n are ``ids[indptr[n]:indptr[n + 1]]``. A text may have no pieces.
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
        """The number of pieces of each text, int64 [N]."""
        return np.diff(self.indptr)

    @property
    def rows(self) -> np.ndarray:
        """The index of the text that each piece belongs to, int64 [number of pieces]."""
        return np.repeat(np.arange(len(self)), self.counts)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Pieces:
        """Pack one list of ids per text.

        >>> Pieces.from_lists([[7, 8], [], [9]]).indptr.tolist()
        [0, 2, 2, 3]
        """
        lists = list(lists)
        indptr = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=indptr[1:])
        flat = [i for ids in lists for i in ids]
        return cls(indptr, np.array(flat, dtype=np.int64))


class Segmenter:
    """Segments texts with the old tokenizer as if they stood inside a longer text.

    It differs from plain encoding in three ways. Special tokens are neither added nor recognised. SentencePiece's
    dummy space is not put before the text, so that the pieces of ``"ing"`` do not start with a space. And where entries
    with a prefix continue a word, as WordPiece's ``##ing`` does, a text without a space before it may continue one: of
    the two segmentations the shorter is taken, and of equally long ones that which continues a word.

    Args:
        definition: the content of the old tokenizer's `tokenizer.json`.
        vocabulary: its vocabulary.
        num_rows: number of rows of the old matrices. A token with an id beyond them is not used as a piece; it is
            replaced by the tokens of its single bytes.

    Raises:
        TokenAdaptError: the `tokenizers` library cannot read the definition.
    """

    def __init__(self, definition: Definition, vocabulary: Vocabulary, num_rows: int | None = None) -> None:
        with one_error("the base tokenizer cannot be used on the texts of new tokens"):
            unknown = unknown_ids(definition, vocabulary)
            self._stem = _stem(definition)
            self._stem_id = max(vocabulary.num_ids, num_rows or 0)
            self._tokenizer = plain_tokenizer(_with_entry(definition, self._stem, self._stem_id), vocabulary)
        self.definition = definition
        self._vocabulary = vocabulary
        self._num_rows = vocabulary.num_ids if num_rows is None else num_rows
        self._excluded = unknown | set(vocabulary.ids(TokenKind.SPECIAL).tolist())

    def segment(self, contents: Sequence[bytes]) -> Pieces:
        """Segment byte strings into old tokens.

        A byte string that is not valid UTF-8 is split into single bytes. Text that the old vocabulary cannot express
        (its unknown token, or a byte without a token) is left out.

        Raises:
            TokenAdaptError: the old tokenizer fails on a text.
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
        for place, ids in zip(places, self._encode_inside(texts), strict=True):
            lists[place] = self._usable(ids)
        return Pieces.from_lists(lists)

    def _encode_inside(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield the pieces of each text, which may continue a word if it does not begin with a space."""
        if not self._stem:
            yield from self._encode(texts)
            return
        continued = self._encode(["" if text[:1].isspace() else self._stem + text for text in texts])
        for text, plain, ids in zip(texts, self._encode(texts), continued, strict=True):
            inside = [i for i in ids if i != self._stem_id]
            yield plain if text[:1].isspace() else min(inside, plain, key=self._cost)

    def _cost(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return the number of pieces that are left out, and the number of all pieces."""
        return sum(i in self._excluded for i in ids), len(ids)

    def _encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), BATCH):
            with one_error("the base tokenizer cannot segment the texts of new tokens"):
                encodings = self._tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
            for encoding in encodings:
                yield encoding.ids

    def _usable(self, ids: list[int]) -> list[int]:
        # Nearly all texts end here. The loop below is slow for a whole vocabulary.
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
    """Build the tokenizer as it works inside a text: without dummy space, and without recognising special tokens."""
    plain = _without_specials(without_dummy_space(definition), vocabulary)
    return tokenizer_of(plain)


def unknown_ids(definition: Definition, vocabulary: Vocabulary) -> frozenset[int]:
    """Return the id of the model's unknown token, if it has one. This token stands for no text."""
    model = definition["model"]
    if model.get("unk_id") is not None:
        return frozenset([model["unk_id"]])
    token = vocabulary.by_spelling.get(model.get("unk_token") or "")
    # A byte token in the role of the unknown token still stands for its byte.
    return frozenset([token.id]) if token and token.kind is not TokenKind.BYTE else frozenset()


_STEMS = ("\u01bb", "\u0294", "\u01c0", "\u0298")
"""Rare letters without case. Normalizers and pre-tokenizers treat them as letters of a word."""


def _stem(definition: Definition) -> str:
    """Return a letter to put before a text that continues a word; empty if no entry of the model says that it does so.

    With the letter as an entry of its own, ``ƻing`` is segmented into ``ƻ`` and ``##ing``. Text that is not part of a
    word, such as punctuation, is separated from the letter by the pre-tokenizer.
    """
    model = definition["model"]
    if not (model.get("continuing_subword_prefix") or model.get("type") == "WordPiece"):
        return ""
    used = set().union(*model["vocab"])
    return next((letter for letter in _STEMS if letter not in used), "")


def _with_entry(definition: Definition, spelling: str, token_id: int) -> Definition:
    """Return the definition with one more entry of its model; the same definition if the spelling is empty."""
    if not spelling:
        return definition
    model = definition["model"]
    return {**definition, "model": {**model, "vocab": {**model["vocab"], spelling: token_id}}}


def without_dummy_space(definition: Definition) -> dict[str, Any]:
    """Return a copy of the definition that adds nothing before or around a text. `model` is shared, not copied."""
    copy: dict[str, Any] = json.loads(json.dumps({k: v for k, v in definition.items() if k != "model"}))
    copy |= {"model": definition["model"], "post_processor": None, "truncation": None, "padding": None}
    copy["normalizer"] = _without(copy.get("normalizer"), "Prepend")
    if any(part["type"] == "Metaspace" for part in components(copy.get("pre_tokenizer"))):
        # T5 splits at spaces, drops them, and lets Metaspace put one before each word. Without the dummy space, they
        # would be lost. So the split is removed, and Metaspace sees the spaces themselves.
        copy["pre_tokenizer"] = _without(copy["pre_tokenizer"], "WhitespaceSplit")
    for part in [*components(copy.get("normalizer")), *components(copy.get("pre_tokenizer"))]:
        if part["type"] == "Strip":  # DeBERTa's removes the space before a text, with which most tokens begin
            part |= {"strip_left": False, "strip_right": False}  # type: ignore[operator]
        if "add_prefix_space" in part:
            part["add_prefix_space"] = False  # type: ignore[index]
        if "prepend_scheme" in part:
            part["prepend_scheme"] = "never"  # type: ignore[index]
    return copy


def _without_specials(definition: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a copy of the definition that treats the strings of special tokens as ordinary text."""
    special = set(vocabulary.ids(TokenKind.SPECIAL).tolist())
    added = [entry for entry in definition.get("added_tokens") or () if entry["id"] not in special]
    model = dict(definition["model"])
    if isinstance(model["vocab"], list):
        # Unigram would find the pieces of special tokens in the text, so they get a spelling that no text contains.
        # They cannot be removed, because the position in the list is the id.
        pieces = enumerate(model["vocab"])
        model["vocab"] = [[f"\uffff{i}" if i in special else piece, score] for i, (piece, score) in pieces]
        # `tokenizers` gives an added token that is no piece the next free id. Fillers give it its own id.
        contents = {entry["id"]: entry["content"] for entry in added}
        beyond = range(len(model["vocab"]), max(contents, default=-1) + 1)
        lowest = min((score for _, score in model["vocab"]), default=0.0)
        model["vocab"] += [[contents.get(i, f"\uffff{i}"), lowest] for i in beyond]
    else:
        # `tokenizers` gives an added token that is no entry of the model the next free id, not its own.
        model["vocab"] = {**model["vocab"], **{entry["content"]: entry["id"] for entry in added}}
    return definition | {"model": model, "added_tokens": added}


def _without(part: Mapping[str, Any] | None, unwanted: str) -> Mapping[str, Any] | None:
    """Return a normalizer or pre-tokenizer without its members of the type `unwanted`; None if nothing is left."""
    if part is None or part["type"] == unwanted:
        return None
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            members = [_without(member, unwanted) for member in part[key]]
            return {**part, key: [member for member in members if member is not None]}
    return part
