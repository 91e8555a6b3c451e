"""Vectors of tokens from vectors of words, as WECHSEL makes them (arXiv 2112.06598, section 3).

Letters: T tokens, B words of a batch, A dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from mergekit_tokenadapt.auxiliary.word_vectors.fasttext import FastTextModel
from mergekit_tokenadapt.auxiliary.word_vectors.reading import WordBatch, WordVectors
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Token

MOST_WORDS = 200_000
"""Default number of words that are read, the most frequent ones. Rarer words change hardly any mean."""


def token_vectors(
    words: WordVectors, tokens: Sequence[Token], segmenter: Segmenter, *, most: int = MOST_WORDS, quiet: bool = False
) -> np.ndarray:
    """Return a vector for each token, float32 [T, A]; zeros for a token about which the words say nothing.

    A fastText model with n-grams gives the vector of a token's text without surrounding spaces. Otherwise, every word
    is segmented twice, as it is and after a space. W are the words whose segmentation has the token; a word that has it
    both times is in W twice. The vector is ``sum of f(w) v(w) / sum of f(w)`` over W, where f is the frequency.

    Args:
        words: the word vectors.
        tokens: tokens of one vocabulary.
        segmenter: segments texts into tokens of that vocabulary.
        most: words to read, at most.
        quiet: show no progress.

    Raises:
        TokenAdaptError: the file is malformed.
    """
    if isinstance(words, FastTextModel) and words.has_ngrams:
        # A token that is part of a character has no text.
        vectors_TA = words.of([(token.text or "").strip() for token in tokens])
        vectors_TA[[not (token.text or "").strip() for token in tokens]] = 0
        return vectors_TA
    place = np.full(max((t.id for t in tokens), default=-1) + 1, -1, dtype=np.int64)
    place[[t.id for t in tokens]] = np.arange(len(tokens))
    sums_TA, totals_T = np.zeros((len(tokens), words.dimensions), dtype=np.float32), np.zeros(len(tokens))
    for batch in progress(words.batches(most), desc=f"Word vectors of {words.path.name}", unit="batch", quiet=quiet):
        frequencies_TB = _frequencies(batch, place, len(tokens), segmenter)
        found = np.flatnonzero(frequencies_TB.getnnz(axis=1))
        sums_TA[found] += frequencies_TB[found] @ batch.vectors_BA
        totals_T += np.asarray(frequencies_TB.sum(axis=1)).ravel()
    sums_TA /= np.where(totals_T, totals_T, 1)[:, None].astype(np.float32)  # in place: a vocabulary's vectors are large
    return sums_TA


def _frequencies(batch: WordBatch, place: np.ndarray, num_tokens: int, segmenter: Segmenter) -> csr_matrix:
    """Return how much each word of a batch counts for each token, float64 [T, B].

    Args:
        batch: the words.
        place: int64; token id -> place among the T tokens, or -1.
        num_tokens: T.
        segmenter: segments the words.
    """
    contents = [b"" if word is None else word.encode("utf-8") for word in batch.words]
    rows, columns = [], []
    for before in (b"", b" "):
        pieces = segmenter.segment([before + content if content else b"" for content in contents])
        known = pieces.ids < len(place)
        tokens, owners = place[pieces.ids[known]], pieces.rows[known]
        # A token that a word has several times counts once.
        pairs = np.unique(np.stack([tokens, owners])[:, tokens >= 0], axis=1)
        rows.append(pairs[0])
        columns.append(pairs[1])
    of_word = np.concatenate(columns)
    shape = (num_tokens, len(contents))
    return csr_matrix((batch.frequencies[of_word], (np.concatenate(rows), of_word)), shape=shape)
