"""Measure how a tokenizer segments text: number of tokens, tokens per word, use of the vocabulary, split characters.

Sources: fertility and proportion of continued words, Rust et al. 2021 (arXiv 2012.15613, section 4.1); parity, Petrov
et al. 2023 (arXiv 2305.15425, section 3); Rényi efficiency, Zouhar et al. 2023 (arXiv 2306.16842).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends, check_some_tokens
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

ALPHA = 2.5
"""Order of the Rényi entropy that correlates best with translation quality (Zouhar et al., section 5)."""

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""First words of the Unicode names of letters whose scripts put no spaces between words. A run of such letters is no
word, so measures per word leave it out."""


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """A document and its tokenization."""

    text: str
    ids: np.ndarray
    """int64 [tokens]"""
    ends: np.ndarray
    """int64 [tokens]: end of each token in the text's UTF-8, in bytes."""
    is_exact: bool
    """Whether decoding the tokens gives exactly the text."""


def tokenize(tokenizer: TokenizerFiles, texts: Sequence[str]) -> list[TokenizedDocument]:
    """Encode documents, and check whether decoding restores them.

    Raises:
        TokenAdaptError: the tokenizer makes no token of any document.
    """
    library, vocabulary = tokenizer.fast_tokenizer(), tokenizer.vocabulary
    encodings = library.encode_batch(list(texts), add_special_tokens=False)
    check_some_tokens(tokenizer, encodings)
    return [
        TokenizedDocument(
            text,
            np.array(e.ids, dtype=np.int64),
            byte_ends(text, e.ids, e.offsets, vocabulary),
            library.decode(e.ids, skip_special_tokens=False) == text,
        )
        for text, e in zip(texts, encodings, strict=True)
    ]


def measure(documents: Sequence[TokenizedDocument], vocabulary_size: int) -> dict[str, Any]:
    """Compute all measures over the documents of one text.

    Args:
        documents: the tokenized documents, with at least one token.
        vocabulary_size: number of tokens in the vocabulary.

    Returns:
        Name -> value. ``fertility`` is tokens per word; ``single_token_words``, ``boundaries_inside_characters`` and
        ``exact_round_trips`` are shares between 0 and 1. Measures per word are None if the text has no words.
    """
    num_bytes = sum(len(d.text.encode("utf-8")) for d in documents)
    num_tokens = sum(len(d.ids) for d in documents)
    ids = np.concatenate([d.ids for d in documents])
    per_word = np.concatenate([tokens_per_word(d) for d in documents])
    boundaries = [boundaries_inside_characters(d) for d in documents]
    inside, of = sum(b[0] for b in boundaries), sum(b[1] for b in boundaries)
    return {
        "documents": len(documents),
        "bytes": num_bytes,
        "tokens": num_tokens,
        "bytes_per_token": num_bytes / num_tokens,
        "characters_per_token": sum(len(d.text) for d in documents) / num_tokens,
        "words": len(per_word),
        "fertility": float(per_word.mean()) if len(per_word) else None,
        "single_token_words": float((per_word == 1).mean()) if len(per_word) else None,
        "renyi_efficiency": renyi_efficiency(np.bincount(ids), vocabulary_size),
        "distinct_tokens": len(np.unique(ids)),
        "boundaries_inside_characters": inside / of if of else 0.0,
        "exact_round_trips": sum(d.is_exact for d in documents) / len(documents),
    }


def renyi_efficiency(counts: np.ndarray, vocabulary_size: int, alpha: float = ALPHA) -> float:
    """Return the Rényi entropy of the token distribution, divided by the logarithm of the vocabulary's size.

    The entropy is ``H = log(sum(p ** alpha)) / (1 - alpha)`` with the relative frequencies p (Zouhar et al. 2023). The
    efficiency is 1 if all tokens of the vocabulary are equally frequent.

    Args:
        counts: int64, occurrences of each token; zeros may be left out.
        vocabulary_size: number of tokens in the vocabulary, at least 2.
        alpha: order of the entropy, not 1.

    >>> round(renyi_efficiency(np.array([5, 5, 5, 5]), 4), 6)
    1.0
    """
    p = counts[counts > 0] / counts.sum()
    entropy = math.log(float((p**alpha).sum())) / (1 - alpha)
    return entropy / math.log(vocabulary_size)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each word in characters. A word is a run of letters and combining marks.

    >>> word_spans("so 3 été")
    [(0, 2), (5, 8)]
    """
    spans, start = [], None
    for place, character in enumerate([*text, " "]):
        if unicodedata.category(character)[0] in "LM":
            start = place if start is None else start
        elif start is not None:
            spans.append((start, place))
            start = None
    return spans


def tokens_per_word(document: TokenizedDocument) -> np.ndarray:
    """Count the tokens that hold at least one byte of each word, int64 [words].

    Words in scripts without spaces between words are left out.
    """
    widths = np.array([len(c.encode("utf-8")) for c in document.text], dtype=np.int64)
    places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
    spans = [s for s in word_spans(document.text) if not _is_unspaced(document.text[s[0]])]
    starts = places[[start for start, _ in spans]] if spans else np.zeros(0, dtype=np.int64)
    ends = places[[end for _, end in spans]] if spans else np.zeros(0, dtype=np.int64)
    # Token t covers the bytes ends[t - 1]:ends[t]. The first token of a word is the first that ends after the word's
    # start. The last token is the first that ends at the word's end or later.
    first = np.searchsorted(document.ends, starts, side="right")
    last = np.searchsorted(document.ends, ends, side="left")
    return np.asarray(last - first + 1)


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


def boundaries_inside_characters(document: TokenizedDocument) -> tuple[int, int]:
    """Count the boundaries between tokens: (those inside a character, all)."""
    content = np.frombuffer(document.text.encode("utf-8"), dtype=np.uint8)
    boundaries = document.ends[:-1]
    boundaries = boundaries[(boundaries > 0) & (boundaries < len(content))]
    # In UTF-8 a byte 10xxxxxx continues a character.
    return int(((content[boundaries] & 0xC0) == 0x80).sum()), len(boundaries)
