"""Counts of how often old and new tokens stand for each other in parallel text.

Letters: N new tokens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.texts import read_text, split_passages
from mergekit_tokenadapt.texts.lines import numbered_lines
from mergekit_tokenadapt.tokenizer.alignment import Encoded, shared_bytes
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

if TYPE_CHECKING:  # a transfer holds a method, and a method counts
    from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

EXTRA = "parallel"
PASSAGE = 4000
"""Bytes that are tokenized at a time."""
LONGEST_LINE = 200
"""Words of a line. Longer lines say little about which word translates which, and their cost grows with the square of
the length."""


def counts_of_one_text(transfer: Transfer, source: str) -> SparseRows:
    """Count, in a text that both tokenizers segment, how much of each new token old tokens make up.

    An occurrence of a new token counts 1. It is divided among the old tokens that have bytes in common with it, in
    proportion to the number of these bytes.

    Args:
        transfer: the two tokenizers.
        source: a file, a folder or jsonl.

    Returns:
        Counts of old tokens for each of the N new tokens; empty for tokens that the text does not show.

    Raises:
        TokenAdaptError: there is no such text.
    """
    documents = read_text(source, option="text").documents
    passages = [p for document in documents for p in split_passages(document, PASSAGE)]
    encoders = [(t.fast_tokenizer(), t.vocabulary) for t in (transfer.base, transfer.target)]
    news, olds, shares = [], [], []
    for passage in progress(passages, desc="Tokens of both vocabularies in the text", quiet=transfer.quiet):
        old, new = (Encoded.of(passage, *encoder) for encoder in encoders)
        at_old, at_new, num_bytes = shared_bytes(old, new)
        news.append(new.ids[at_new])
        olds.append(old.ids[at_old])
        shares.append(num_bytes / (new.ends - new.starts)[at_new])
    return _summed(transfer, np.concatenate(news), np.concatenate(olds), np.concatenate(shares))


def counts_of_two_texts(
    transfer: Transfer, base_text: str, target_text: str, *, iterations: int, least_count: int
) -> SparseRows:
    """Estimate, in lines that translate each other, how often each new token is translated by each old token.

    Words are aligned, as in TransTokenizer's code. A word is a token that begins with a space, or a line, with the
    tokens up to the next one. The probability p(old word | new word) is that of IBM model 1 (Brown et al. 1993). Times
    the number of occurrences of the new word it gives the count of the pair. Of this count each token of the new word
    gets all: one half is divided equally among the tokens of the old word, the other half by their order, so that first
    goes to first and last to last.

    Args:
        transfer: the two tokenizers.
        base_text: a file in the language that the base model knows, segmented by its tokenizer.
        target_text: a file whose lines translate those of `base_text`, segmented by the target tokenizer.
        iterations: of expectation maximisation.
        least_count: pairs of words with a lower count are left out.

    Returns:
        As `counts_of_one_text`.

    Raises:
        TokenAdaptError: a file is missing, empty or not UTF-8; the numbers of lines differ; or the package for the
            model is missing.
    """
    with importing("nltk", extra=EXTRA, wanted_by="parallel with two texts"):
        from nltk.translate import AlignedSent, IBMModel1
    pairs = _pairs_of_lines(transfer, base_text, target_text)
    # nltk's model gives p(word | mot) for the words of a line and those, the "mots", of its translation.
    lines = [AlignedSent(old, new) for old, new in pairs]
    with progress(total=1 + iterations, desc="Which words translate which", quiet=transfer.quiet) as bar:
        model = IBMModel1(lines, 0)
        bar.update(1)
        for _ in range(iterations):
            model.train(lines)
            bar.update(1)
    occurrences = Counter(word for _, new in pairs for word in new)
    news, olds, counts = [], [], []
    for new, old in sorted({(new, old) for line in pairs for new in line[1] for old in line[0]}):
        count = model.translation_table[old][new] * occurrences[new]
        if count >= least_count:
            shares = word_shares(len(old), len(new))
            news.append(np.repeat(new, len(old)))
            olds.append(np.tile(old, len(new)))
            counts.append(count * shares.ravel())
    if not news:
        raise TokenAdaptError(
            f"parallel: no pair of words occurs {least_count} times: give more text, or a smaller least_count"
        )
    return _summed(transfer, np.concatenate(news), np.concatenate(olds), np.concatenate(counts))


def word_shares(num_old: int, num_new: int) -> np.ndarray:
    """Return which share of each new token of a word each old token is, float64 [num_new, num_old].

    >>> word_shares(2, 1).tolist(), word_shares(2, 2).tolist()
    ([[0.5, 0.5]], [[0.75, 0.25], [0.25, 0.75]])
    """
    ends_new, ends_old = np.arange(1, num_new + 1) / num_new, np.arange(1, num_old + 1) / num_old
    first = np.maximum((ends_new - 1 / num_new)[:, None], (ends_old - 1 / num_old)[None])
    last = np.minimum(ends_new[:, None], ends_old[None])
    in_order: np.ndarray = np.clip(last - first, 0, None) * num_new
    return (in_order + 1 / num_old) / 2


Word = tuple[int, ...]
"""The tokens of a word."""


def _pairs_of_lines(transfer: Transfer, base_text: str, target_text: str) -> list[tuple[list[Word], list[Word]]]:
    """The words of each line and of its translation, without pairs in which a line is empty or too long."""
    sides = [_lines(base_text, "base_text"), _lines(target_text, "target_text")]
    if len(sides[0]) != len(sides[1]):
        raise TokenAdaptError(
            f"parallel: {base_text} has {len(sides[0]):,} lines, and {target_text} has {len(sides[1]):,}: each line of "
            "one must be the translation of the same line of the other"
        )
    pairs = list(zip(_words(transfer.base, sides[0]), _words(transfer.target, sides[1]), strict=True))
    full = [pair for pair in pairs if all(pair)]
    kept = [pair for pair in full if max(map(len, pair)) <= LONGEST_LINE]
    if len(kept) < len(full):
        LOG.warning("parallel: %d lines of more than %d words are left out", len(full) - len(kept), LONGEST_LINE)
    if not kept:
        raise TokenAdaptError(
            f"parallel: {base_text} and {target_text} have no two lines of 1 to {LONGEST_LINE} words that translate "
            "each other"
        )
    return kept


def _lines(source: str, option: str) -> list[str]:
    where = f"parallel: {option}: {source}"
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise TokenAdaptError(f"{where} cannot be read: {error.strerror}") from error
    found = numbered_lines(content, lambda number, _place: f"{where}, line {number}, is not UTF-8")
    lines = [line for _, line in found]
    if not any(line.strip() for line in lines):
        raise TokenAdaptError(f"{where} is empty")
    return lines if lines[-1] else lines[:-1]  # nothing follows the end of the last line


def _words(tokenizer: TokenizerFiles, lines: Sequence[str]) -> Iterator[list[Word]]:
    encoder, vocabulary = tokenizer.fast_tokenizer(), tokenizer.vocabulary
    begins = {token.id for token in vocabulary if token.bytes and token.bytes.startswith(b" ")}
    for encoding in encoder.encode_batch([line.strip() for line in lines], add_special_tokens=False):
        ids = encoding.ids
        starts = [n for n, i in enumerate(ids) if n == 0 or i in begins]
        yield [tuple(ids[start:end]) for start, end in pairwise([*starts, len(ids)])]


def _summed(transfer: Transfer, news: np.ndarray, olds: np.ndarray, counts: np.ndarray) -> SparseRows:
    """Add up (new token, old token, count) triplets; others than new tokens and candidates are left out."""
    usable = transfer.candidate_ids.cpu().numpy()
    kept = np.isin(news, transfer.new_ids) & np.isin(olds, usable)
    rows = np.searchsorted(transfer.new_ids, news[kept])
    return SparseRows.from_triplets(_tensor(rows), _tensor(olds[kept]), _tensor(counts[kept]), len(transfer.new_ids))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
