"""From a text to what a model is scored on: token ids, the start token, and the bytes of every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.losses import Scorer
from mergekit_tokenadapt.tokenizer_files import TokenizerFiles
from mergekit_tokenadapt.vocabulary import Vocabulary


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


def start_token(vocabulary: Vocabulary) -> int | None:
    """The token that the first one is predicted from: bos, or else eos, as lm-evaluation-harness has it."""
    return vocabulary.roles.get("bos", vocabulary.roles.get("eos"))


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


def check_some_tokens(tokenizer: TokenizerFiles, encodings: Sequence[Encoding]) -> None:
    """Refuse texts of which nothing is left, for instance white space that the tokenizer drops.

    Raises:
        TokenAdaptError: no document has a token.
    """
    if not any(encoding.ids for encoding in encodings):
        raise TokenAdaptError(f"{tokenizer.name} makes no token of any of {len(encodings)} documents of a text")


def byte_ends(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], vocabulary: Vocabulary) -> np.ndarray:
    """Where each token ends in the text's UTF-8, int64 [tokens], not decreasing, the last at its end.

    The tokens' own bytes say so exactly where they add up to the text (with or without a dummy space
    in front); otherwise (normalizers) the tokenizer's character offsets do, and tokens that share a
    character end with it.
    """
    content = text.encode("utf-8")
    pieces = [vocabulary.by_id[i].bytes for i in ids]
    joined = b"".join(pieces)
    if joined in (content, b" " + content):
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return np.maximum(ends - (len(joined) - len(content)), 0)
    widths = np.array([len(character.encode("utf-8")) for character in text], dtype=np.int64)
    places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
    ends = np.maximum.accumulate(places[[end for _, end in offsets]]) if len(ids) else np.zeros(0, dtype=np.int64)
    ends[-1:] = len(content)
    return ends
