"""Counts of how often old and new tokens stand for each other in parallel text.

Letters: N new tokens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
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
from mergekit_tokenadapt.tokenizer.alignment import Encoded, shared_bytes
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

if TYPE_CHECKING:  # a transfer holds a method, and a method counts
    from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

EXTRA = "parallel"
PASSAGE = 4000
"""Bytes that are tokenized at a time."""
LONGEST_LINE = 200
"""Tokens of a line, in either vocabulary. Longer lines say little about which token translates which, and their cost
grows with the square of the length."""


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


def counts_of_two_texts(transfer: Transfer, base_text: str, target_text: str, iterations: int) -> SparseRows:
    """Estimate, in lines that translate each other, how often each new token is translated by each old token.

    The probability p(old | new) is that of IBM model 1 (Brown et al. 1993), trained on the tokens of both lines. The
    estimate is p(old | new) times the number of occurrences of the new token.

    Args:
        transfer: the two tokenizers.
        base_text: a file in the language that the base model knows, segmented by its tokenizer.
        target_text: a file whose lines translate those of `base_text`, segmented by the target tokenizer.
        iterations: of expectation maximisation.

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
    with progress(total=1 + iterations, desc="Which tokens translate which", quiet=transfer.quiet) as bar:
        model = IBMModel1(lines, 0)
        bar.update(1)
        for _ in range(iterations):
            model.train(lines)
            bar.update(1)
    occurrences = Counter(i for _, new in pairs for i in new)
    together = sorted({(i, o) for old, new in pairs for i in set(new) for o in set(old)})
    news, olds = np.array(together, dtype=np.int64).T
    expected = [model.translation_table[o][i] * occurrences[i] for i, o in together]
    return _summed(transfer, news, olds, np.array(expected))


def _pairs_of_lines(transfer: Transfer, base_text: str, target_text: str) -> list[tuple[list[int], list[int]]]:
    """The tokens of each line and of its translation, without pairs in which a line is empty or too long."""
    sides = [_lines(base_text, "base_text"), _lines(target_text, "target_text")]
    if len(sides[0]) != len(sides[1]):
        raise TokenAdaptError(
            f"parallel: {base_text} has {len(sides[0]):,} lines, and {target_text} has {len(sides[1]):,}: each line of "
            "one must be the translation of the same line of the other"
        )
    pairs = list(zip(_ids(transfer.base, sides[0]), _ids(transfer.target, sides[1]), strict=True))
    full = [pair for pair in pairs if all(pair)]
    kept = [pair for pair in full if max(map(len, pair)) <= LONGEST_LINE]
    if len(kept) < len(full):
        LOG.warning("parallel: %d lines of more than %d tokens are left out", len(full) - len(kept), LONGEST_LINE)
    if not kept:
        raise TokenAdaptError(
            f"parallel: {base_text} and {target_text} have no two lines of 1 to {LONGEST_LINE} tokens that translate "
            "each other"
        )
    return kept


def _lines(source: str, option: str) -> list[str]:
    try:
        content = Path(source).read_bytes().decode("utf-8")
    except OSError as error:
        raise TokenAdaptError(f"parallel: {option}: {source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TokenAdaptError(f"parallel: {option}: {source}, line {line}, is not UTF-8") from error
    if not content.strip():
        raise TokenAdaptError(f"parallel: {option}: {source} is empty")
    # `splitlines` would also split at characters such as U+2028, which are part of a line here.
    return content.removesuffix("\n").split("\n")


def _ids(tokenizer: TokenizerFiles, lines: Sequence[str]) -> Iterator[list[int]]:
    encodings = tokenizer.fast_tokenizer().encode_batch([line.strip() for line in lines], add_special_tokens=False)
    return (encoding.ids for encoding in encodings)


def _summed(transfer: Transfer, news: np.ndarray, olds: np.ndarray, counts: np.ndarray) -> SparseRows:
    """Add up (new token, old token, count) triplets; others than new tokens and candidates are left out."""
    usable = transfer.candidate_ids.cpu().numpy()
    kept = np.isin(news, transfer.new_ids) & np.isin(olds, usable)
    rows = np.searchsorted(transfer.new_ids, news[kept])
    return SparseRows.from_triplets(_tensor(rows), _tensor(olds[kept]), _tensor(counts[kept]), len(transfer.new_ids))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
