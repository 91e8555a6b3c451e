"""Count the pairs of neighbouring tokens in a corpus, and then the runs of tokens that may become one token.

A run is a sequence of tokens within which every pair of neighbours may be merged. A run ends where the pre-tokenizer
ends a piece, where the rules forbid a merge, and between two neighbours that occur too rarely to be merged. Runs with
their frequencies replace the text, which makes learning merges across words fast ("Faster Superword Tokenization",
arXiv 2604.05192).

Ending runs at rare pairs limits the number of distinct runs. It does not change the learned merges, because a merge is
never more frequent than any pair of neighbours inside it.

All functions take any iterator of texts, and counts of parts of a corpus can be added up.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.rules import Joints, Rules
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Vocabulary

BATCH_BYTES = 4_000_000
"""Size of one batch for ``encode_batch``. It is measured in characters; for ASCII these are bytes."""
FIRST_CHARACTER = 0x10000
"""A token is written as the character with the code point `FIRST_CHARACTER` + id.

This range contains neither `END` nor surrogates, which UTF-8 cannot encode.
"""
MAX_IDS = 0x10FFFF - FIRST_CHARACTER
"""Highest token id that can be written as one character: Unicode ends at U+10FFFF."""
END = "\n"
"""Separates two runs."""
REPLACED = "\ufffd"
"""U+FFFD, which replaces bytes that are not valid UTF-8."""

Stream = Iterator[tuple[np.ndarray, np.ndarray]]
"""Batches of a corpus: token ids, int32 [n], and whether each token starts a new run, bool [n]."""


Prepare = Callable[[Iterator[str]], Iterator[str]]
"""A function that changes the pieces of text right before they are encoded."""


@dataclass(frozen=True)
class Encode:
    """The step from pieces of text to a `Stream`. The object can be pickled and sent to another process."""

    definition: Definition
    """The tokenizer with its present merges, and with the pre-tokenizer that the result will have."""
    vocabulary: Vocabulary
    """Its tokens."""
    rules: Rules
    """Rules for the text of a merged token."""
    prepare: Prepare = iter

    def __call__(self, texts: Iterator[str]) -> Stream:
        """Encode pieces of text in batches."""
        joints = Joints(self.vocabulary, self.rules)
        return run_stream(self.prepare(readable(texts)), tokenizer_of(self.definition), joints)


class TokenRuns(Protocol):
    """An encoded corpus. `pairs` is called once, then `runs` one or more times."""

    def pairs(self, max_pairs: int) -> PairCounts:
        """Count pairs of neighbours, see `count_pairs`."""

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """Count runs, see `count_runs`."""


def run_stream(texts: Iterable[str], tokenizer: Tokenizer, joints: Joints) -> Stream:
    """Encode texts in batches, and mark the tokens at which runs start.

    Args:
        texts: the pieces of a corpus.
        tokenizer: a tokenizer with the present merges, and with the pre-tokenizer that the result will have.
        joints: which neighbouring tokens may be merged.
    """
    for batch in batches(texts):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        lengths = np.array([len(e.ids) for e in encodings])
        total = int(lengths.sum())
        if not total:
            continue
        ids = np.fromiter((i for e in encodings for i in e.ids), dtype=np.int32, count=total)
        # A special token in the text belongs to no word: its word id is None.
        words = np.fromiter((-1 if w is None else w for e in encodings for w in e.word_ids), np.int32, total)
        starts = np.ones(total, dtype=bool)
        # Word ids count the pieces of the pre-tokenizer, so a change of the word id is a boundary of pieces.
        starts[1:] = (words[1:] != words[:-1]) | ~joints.allowed(ids[:-1], ids[1:])
        # Each text starts a run, too: its word ids start again from 0, and may equal the last one's.
        firsts = np.cumsum(lengths)[:-1]
        starts[firsts[firsts < total]] = True
        yield ids, starts


def readable(pieces: Iterable[str]) -> Iterator[str]:
    """Split pieces at U+FFFD and leave that character out, because no token should contain it.

    Here U+FFFD mostly stands for bytes that were not valid UTF-8.
    """
    for piece in pieces:
        yield from filter(None, piece.split(REPLACED))


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts into lists of about `BATCH_BYTES` characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:  # `encode_batch` uses several cores only on many texts at once
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass
class PairCounts:
    """How often two tokens were neighbours within a run."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 [pairs], ascending: id of the left token * 2 ** 32 + id of the right token."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 [pairs]"""
    lost: int = 0
    """Upper bound of the number of occurrences that one pair lost when rare pairs were removed from memory."""

    def __add__(self, other: PairCounts) -> PairCounts:
        """Add the counts of two parts of a corpus."""
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.bincount(places, weights=np.concatenate([self.counts, other.counts])).astype(np.int64)
        return PairCounts(keys, counts[: len(keys)], self.lost + other.lost)

    def limited(self, max_pairs: int) -> PairCounts:
        """Remove the rarest pairs if there are more than `max_pairs` (lossy counting, Manku and Motwani 2002)."""
        if len(self.keys) <= max_pairs:
            return self
        # Pairs that are exactly as frequent as the threshold go, too, so that the rest is surely small enough.
        threshold = int(np.partition(self.counts, -max_pairs)[-max_pairs])
        kept = self.counts > threshold
        return PairCounts(self.keys[kept], self.counts[kept], self.lost + threshold)

    def frequent(self, min_frequency: int) -> PairCounts:
        """Return the pairs that may have occurred at least `min_frequency` times, given that counts may lack up to
        `lost`.
        """
        kept = self.counts + self.lost >= min_frequency
        return PairCounts(self.keys[kept], self.counts[kept], self.lost)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Return whether each key belongs to a counted pair, bool [len(keys)]."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        result: np.ndarray = self.keys[places] == keys
        return result


def pair_keys(ids: np.ndarray) -> np.ndarray:
    """Encode each token and its right neighbour as one number, int64 [n - 1]."""
    keys: np.ndarray = ids[:-1].astype(np.int64) << 32 | ids[1:]
    return keys


def count_pairs(stream: Iterable[tuple[np.ndarray, np.ndarray]], max_pairs: int) -> PairCounts:
    """Count pairs of neighbours within runs. About `max_pairs` distinct pairs are held in memory at most."""
    return add_pairs((_pairs_of(ids, starts) for ids, starts in stream), max_pairs)


def _pairs_of(ids: np.ndarray, starts: np.ndarray) -> PairCounts:
    return PairCounts(*np.unique(pair_keys(ids)[~starts[1:]], return_counts=True))


def add_pairs(parts: Iterable[PairCounts], max_pairs: int) -> PairCounts:
    """Add up the counts of parts of a corpus. About `max_pairs` distinct pairs are held in memory at most.

    While no pair has been removed (`lost` is 0), neither the order nor the size of the parts changes the result.
    """
    total, waiting, held = PairCounts(), list[PairCounts](), 0
    for part in parts:
        waiting.append(part)
        held += len(part.keys)
        # One addition sorts the whole total. Parts wait until they have about as many pairs as the total.
        if held > max(len(total.keys), max_pairs // 4):
            total, waiting, held = _sum([total, *waiting]).limited(max_pairs), [], 0
    return _sum([total, *waiting]).limited(max_pairs)


def _sum(parts: list[PairCounts]) -> PairCounts:
    whole = PairCounts(np.concatenate([p.keys for p in parts]), np.concatenate([p.counts for p in parts]))
    return PairCounts(lost=sum(p.lost for p in parts)) + whole


@dataclass
class RunCounts:
    """How often each run occurred. A run is a string with one character per token, see `FIRST_CHARACTER`."""

    counts: Counter[str] = field(default_factory=Counter)
    """Run -> number of occurrences."""
    min_frequency: int = 2
    """Runs end between neighbours that occurred less often than this."""

    def __add__(self, other: RunCounts) -> RunCounts:
        """Add the counts of two parts of a corpus."""
        return RunCounts(self.counts + other.counts, max(self.min_frequency, other.min_frequency))

    def bytes_held(self) -> int:
        """Estimate the memory of the counts in bytes, from the sizes of the first 1,000 runs."""
        sample = [sys.getsizeof(run) for run, _ in zip(self.counts, range(1000), strict=False)]
        # About 100 bytes an entry: the slot of the hash table and the count.
        return int(len(self.counts) * (sum(sample) / max(1, len(sample)) + 100))

    def split_at_rare_pairs(self, pairs: PairCounts, min_frequency: int) -> RunCounts:
        """Divide the runs further, between neighbours that occurred less often than `min_frequency`."""
        frequent, counts = pairs.frequent(min_frequency), Counter[str]()
        runs = list(self.counts.items())
        for first in range(0, len(runs), 100_000):
            part = runs[first : first + 100_000]
            ids, starts = _from_text(END.join(run for run, _ in part))
            texts = _to_text(ids, _starts_with_rare_pairs(ids, starts, frequent)).split(END)
            # Every old run starts a new run. The running number of starts therefore tells which old run a part is from.
            numbers = np.cumsum(starts) - 1
            owner = numbers[_starts_with_rare_pairs(ids, starts, frequent)]
            for text, n in zip(texts, owner.tolist(), strict=True):
                if len(text) > 1:
                    counts[text] += part[n][1]
        return RunCounts(counts, min_frequency)


def count_runs(
    stream: Iterable[tuple[np.ndarray, np.ndarray]], pairs: PairCounts, min_frequency: int, max_bytes: int
) -> RunCounts:
    """Count the runs that have at least two tokens.

    Args:
        stream: the corpus on which the pairs were counted.
        pairs: the counts of its pairs.
        min_frequency: runs end between neighbours that occurred less often than this.
        max_bytes: memory for the counts in bytes. Where they need more, `min_frequency` is doubled until they fit.
    """
    result, frequent = RunCounts(min_frequency=min_frequency), pairs.frequent(min_frequency)
    for ids, starts in stream:
        runs = _to_text(ids, _starts_with_rare_pairs(ids, starts, frequent)).split(END)
        result.counts.update(run for run in runs if len(run) > 1)
        # Doubling needs few rounds, and each one shortens the runs, so that many of them become equal.
        while result.bytes_held() > max_bytes and len(frequent.keys):
            result = result.split_at_rare_pairs(pairs, 2 * result.min_frequency)
            frequent = pairs.frequent(result.min_frequency)
    return result


def add_runs(parts: Iterable[RunCounts], pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
    """Add up the runs of parts of a corpus. All runs end at pairs that are rarer than `min_frequency`; see
    `count_runs`.

    While the counts fit into `max_bytes`, neither the order nor the size of the parts changes the result.
    """
    result = RunCounts(min_frequency=min_frequency)
    for part in parts:
        if part.min_frequency < result.min_frequency:
            part = part.split_at_rare_pairs(pairs, result.min_frequency)
        result.counts.update(part.counts)
        while result.bytes_held() > max_bytes and len(pairs.frequent(result.min_frequency).keys):
            result = result.split_at_rare_pairs(pairs, 2 * result.min_frequency)
    return result


def _starts_with_rare_pairs(ids: np.ndarray, starts: np.ndarray, frequent: PairCounts) -> np.ndarray:
    """Return where runs start when they also end at pairs that are not in `frequent`, bool [n]."""
    result: np.ndarray = starts.copy()
    result[1:] |= ~frequent.contains(pair_keys(ids))
    return result


def _to_text(ids: np.ndarray, starts: np.ndarray) -> str:
    """Write runs as text with `END` between them."""
    if len(ids) and int(ids.max()) > MAX_IDS:
        raise TokenAdaptError(f"token ids above {MAX_IDS:,} cannot be counted")
    places = np.flatnonzero(starts[1:]) + 1
    characters = np.insert(ids.astype("<u4") + np.uint32(FIRST_CHARACTER), places, ord(END))
    return characters.tobytes().decode("utf-32-le")


def _from_text(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and run starts that `_to_text` has written."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    is_end = characters == ord(END)
    starts = np.zeros(len(characters), dtype=bool)
    starts[:1] = True
    starts[1:] = is_end[:-1]
    return (characters[~is_end] - FIRST_CHARACTER).astype(np.int32), starts[~is_end]
