"""Score documents: the loss of every token, and the bytes that each token covers."""

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
    """A document with its tokens and their losses under one model."""

    text: str
    ids: np.ndarray
    """int64 [tokens]"""
    losses: np.ndarray
    """float64 [tokens], in nats."""
    ends: np.ndarray
    """int64 [tokens]: end of each token in the text's UTF-8, in bytes. Never decreasing; the last is the length."""

    @property
    def num_bytes(self) -> int:
        """Length of the original text in UTF-8 bytes. Decoded tokens could be longer or shorter."""
        return len(self.text.encode("utf-8"))

    @property
    def bits(self) -> float:
        """Loss of the whole document in bits."""
        return float(self.losses.sum()) / math.log(2)


def score_documents(scorer: Scorer, tokenizer: TokenizerFiles, texts: Sequence[str]) -> list[ScoredDocument]:
    """Compute the loss of every token of documents, the first token included.

    All tokens count, so that losses per byte compare across tokenizers. The first token is predicted from the start
    token (bos, else eos). If the tokenizer has neither, the model cannot predict the first token; its loss is then that
    of a uniform distribution over the vocabulary.

    Args:
        scorer: scores token sequences with the model.
        tokenizer: the model's tokenizer.
        texts: the documents.

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
