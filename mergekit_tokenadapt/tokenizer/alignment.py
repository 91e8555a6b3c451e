"""One text in two tokenizations: where the old model stands when a new token is to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Encoded:
    """A passage as one tokenizer sees it."""

    ids: np.ndarray
    """int64 [tokens]"""
    ends: np.ndarray
    """int64 [tokens]: where each token ends in the passage's UTF-8; not decreasing."""

    @classmethod
    def of(cls, text: str, encoder: Tokenizer, vocabulary: Vocabulary) -> Encoded:
        """Encode a passage, without special tokens around it."""
        encoding = encoder.encode(text, add_special_tokens=False)
        ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary)
        return cls(np.array(encoding.ids, dtype=np.int64), ends)

    @property
    def starts(self) -> np.ndarray:
        """Where each token starts, int64 [tokens]."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1]])[: len(self.ends)]


def standing_at(old: Encoded, new: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """For each new token: the old token under way where it starts, and the bytes of that already passed.

    Returns:
        place of the old token, int64 [new tokens], -1 where there is none (the new token holds no
        bytes, or the old tokenizer has nothing left to say); bytes passed, int64 [new tokens],
        0 where both tokenizers have a boundary.
    """
    places = np.searchsorted(old.ends, new.starts, side="right")
    is_open = (places < len(old.ids)) & (new.ends > new.starts)
    places = np.where(is_open, places, -1)
    passed = np.where(is_open, new.starts - old.starts[places.clip(0)], 0) if len(old.ids) else np.zeros_like(places)
    return places, passed
