"""From a text to what a model is scored on: token ids, the start token, and the bytes of every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends, check_some_tokens, start_token
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles


@dataclass(frozen=True, eq=False)
class ScoredDocument:
    """A document as one model sees it."""

    text: str
    ids: np.ndarray
    """int64 [tokens]"""
    losses: np.ndarray
    """float64 [tokens], nats."""
    ends: np.ndarray
    """int64 [tokens]: where each token ends in the text's UTF-8. Not decreasing; the last is its length."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the original text, never of decoded tokens."""
        return len(self.text.encode("utf-8"))

    @property
    def bits(self) -> float:
        """Bits that the model needs for the document."""
        return float(self.losses.sum()) / math.log(2)


def score_documents(scorer: Scorer, tokenizer: TokenizerFiles, texts: Sequence[str]) -> list[ScoredDocument]:
    """Score documents: every token, the first one included, so that every byte is paid for.

    Where a tokenizer has neither bos nor eos, nothing can be asked about the first token; it is paid
    for as if all tokens were equally likely.

    Raises:
        TokenAdaptError: the tokenizer makes no token of any document, or memory runs out.
    """
    vocabulary = tokenizer.vocabulary
    encoder, start = tokenizer.fast_tokenizer(), start_token(vocabulary)
    encodings = [encoder.encode(text, add_special_tokens=False) for text in texts]
    check_some_tokens(tokenizer, encodings)
    prefix = [] if start is None else [start]
    losses = scorer.score([prefix + e.ids for e in encodings])
    if start is None:
        first = np.array([math.log(len(vocabulary))])
        losses = [
            np.concatenate([first, values]) if e.ids else values for e, values in zip(encodings, losses, strict=True)
        ]
    return [
        ScoredDocument(text, np.array(e.ids, dtype=np.int64), values, byte_ends(text, e.ids, e.offsets, vocabulary))
        for text, e, values in zip(texts, encodings, losses, strict=True)
    ]
