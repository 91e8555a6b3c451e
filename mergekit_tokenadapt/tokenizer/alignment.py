"""Align two tokenizations of one text by byte positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Encoded:
    """The tokenization of a passage: token ids, and the byte position at which each token ends."""

    ids: np.ndarray
    """int64 [tokens]"""
    ends: np.ndarray
    """int64 [tokens]: end of each token in the passage's UTF-8, in bytes; never decreasing."""

    @classmethod
    def of(cls, text: str, encoder: Tokenizer, vocabulary: Vocabulary) -> Encoded:
        """Encode a passage without adding special tokens.

        Args:
            text: the passage.
            encoder: the tokenizer of the `tokenizers` library.
            vocabulary: its vocabulary.
        """
        encoding = encoder.encode(text, add_special_tokens=False)
        ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary)
        return cls(np.array(encoding.ids, dtype=np.int64), ends)

    @property
    def starts(self) -> np.ndarray:
        """Start of each token in the passage's UTF-8, int64 [tokens], in bytes."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1]])[: len(self.ends)]


def standing_at(old: Encoded, new: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Find the old token that covers the first byte of each new token.

    The old model predicts a new token at that place: the old tokens before it are its context, and the bytes of the
    old token that lie before the new token are already known.

    Returns:
        Index of the old token in `old`, int64 [new tokens]; -1 if the new token has no bytes, or lies behind the last
        old token. And the number of bytes of the old token that lie before the new token, int64 [new tokens]; 0 where
        both tokenizations have a boundary.
    """
    # With side="right", an old token that ends exactly where the new one starts does not count.
    places = np.searchsorted(old.ends, new.starts, side="right")
    is_open = (places < len(old.ids)) & (new.ends > new.starts)
    places = np.where(is_open, places, -1)
    passed = np.where(is_open, new.starts - old.starts[places.clip(0)], 0) if len(old.ids) else np.zeros_like(places)
    return places, passed


def shared_bytes(old: Encoded, new: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of an old and a new token that have bytes of the text in common.

    Returns:
        For each pair the index of the old token in `old`, the index of the new token in `new`, and the number of common
        bytes, each int64 [pairs].
    """
    if not len(old.ids) or not len(new.ids):
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    # No boundary lies within a stretch between two neighbouring ends, so it is in one old and in one new token.
    ends = np.union1d(old.ends, new.ends)
    ends = ends[(ends > 0) & (ends <= min(old.ends[-1], new.ends[-1]))]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])[: len(ends)]
    places = (np.searchsorted(encoded.ends, starts, side="right") for encoded in (old, new))
    return *places, ends - starts
