"""Counting what tokens could be merged into: pairs of neighbours, then the runs that they make.

A run is a stretch of tokens that may all become one: cut by the pre-tokenizer, by the rules, and wherever
two neighbours meet too rarely to be ever merged. Counting runs by frequency instead of keeping the text is
what makes merges across words quick to learn ("Faster Superword Tokenization", arXiv 2604.05192); cutting at
rare neighbours changes nothing that is learned, because a merge is never more frequent than any pair of
neighbours inside it, and it is what lets the counts be bounded.

Everything here works on any iterator of texts, and counts of parts of a corpus can be added up.
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
"""Text that is encoded at once."""
FIRST_CHARACTER = 0x10000
"""A token is written as the character with this number plus its id: no separator, no surrogate is that high."""
MAX_IDS = 0x10FFFF - FIRST_CHARACTER
END = "\n"
"""Parts runs."""
REPLACED = "\ufffd"
"""What stands for bytes that are no text."""

Stream = Iterator[tuple[np.ndarray, np.ndarray]]
"""Token ids of a part of the corpus, int32 [n], and whether each starts a new run, bool [n]."""


Prepare = Callable[[Iterator[str]], Iterator[str]]
"""A last step on the pieces of text before they are encoded."""


@dataclass(frozen=True)
class Encode:
    """How texts become a stream. Can be sent to another process."""

    definition: Definition
    """With the pre-tokenizer that the result will have, and the merges that are there already."""
    vocabulary: Vocabulary
    rules: Rules
    prepare: Prepare = iter

    def __call__(self, texts: Iterator[str]) -> Stream:
        """Encode pieces of a corpus, in batches."""
        joints = Joints(self.vocabulary, self.rules)
        return run_stream(self.prepare(readable(texts)), tokenizer_of(self.definition), joints)


class TokenRuns(Protocol):
    """An encoded corpus, of which pairs are counted first, and then runs, perhaps more than once."""

    def pairs(self, max_pairs: int) -> PairCounts:
        """See `count_pairs`."""

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """See `count_runs`."""


def run_stream(texts: Iterable[str], tokenizer: Tokenizer, joints: Joints) -> Stream:
    """Encode texts, batch by batch, and say where runs start.

    Args:
        texts: the corpus, in pieces.
        tokenizer: with the pre-tokenizer that the result will have, and the merges that are there already.
        joints: which neighbours may be merged.
    """
    for batch in batches(texts):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        lengths = np.array([len(e.ids) for e in encodings])
        total = int(lengths.sum())
        if not total:
            continue
        ids = np.fromiter((i for e in encodings for i in e.ids), dtype=np.int32, count=total)
        # A special token in the text has no word.
        words = np.fromiter((-1 if w is None else w for e in encodings for w in e.word_ids), np.int32, total)
        starts = np.ones(total, dtype=bool)
        starts[1:] = (words[1:] != words[:-1]) | ~joints.allowed(ids[:-1], ids[1:])
        firsts = np.cumsum(lengths)[:-1]
        starts[firsts[firsts < total]] = True
        yield ids, starts


def readable(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces without U+FFFD, cut there: a token with it would stand for text that could not be read."""
    for piece in pieces:
        yield from filter(None, piece.split(REPLACED))


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists that are worth encoding at once."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass
class PairCounts:
    """How often tokens were neighbours in a run."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 [pairs], ascending: left id * 2 ** 32 + right id."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 [pairs]"""
    lost: int = 0
    """Pairs that were forgotten had at most this count."""

    def __add__(self, other: PairCounts) -> PairCounts:
        """The counts of both parts of a corpus."""
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.bincount(places, weights=np.concatenate([self.counts, other.counts])).astype(np.int64)
        return PairCounts(keys, counts[: len(keys)], self.lost + other.lost)

    def limited(self, max_pairs: int) -> PairCounts:
        """Forget the rarest pairs where there are more than `max_pairs` (lossy counting, Manku and Motwani 2002)."""
        if len(self.keys) <= max_pairs:
            return self
        threshold = int(np.partition(self.counts, -max_pairs)[-max_pairs])
        kept = self.counts > threshold
        return PairCounts(self.keys[kept], self.counts[kept], self.lost + threshold)

    def frequent(self, min_frequency: int) -> PairCounts:
        """The pairs that may have been met at least so often."""
        kept = self.counts + self.lost >= min_frequency
        return PairCounts(self.keys[kept], self.counts[kept], self.lost)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Whether each of the pairs is counted here, bool."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        result: np.ndarray = self.keys[places] == keys
        return result


def pair_keys(ids: np.ndarray) -> np.ndarray:
    """Each token with the one after it as one number, int64 [n - 1]."""
    keys: np.ndarray = ids[:-1].astype(np.int64) << 32 | ids[1:]
    return keys


def count_pairs(stream: Iterable[tuple[np.ndarray, np.ndarray]], max_pairs: int) -> PairCounts:
    """Count neighbours inside runs, holding at most about `max_pairs` different ones."""
    return add_pairs((_pairs_of(ids, starts) for ids, starts in stream), max_pairs)


def _pairs_of(ids: np.ndarray, starts: np.ndarray) -> PairCounts:
    return PairCounts(*np.unique(pair_keys(ids)[~starts[1:]], return_counts=True))


def add_pairs(parts: Iterable[PairCounts], max_pairs: int) -> PairCounts:
    """Add up the counts of parts of a corpus, holding at most about `max_pairs` different pairs.

    As long as nothing is forgotten (`lost` is 0), neither the order of the parts nor their size matters.
    """
    total, waiting, held = PairCounts(), list[PairCounts](), 0
    for part in parts:
        waiting.append(part)
        held += len(part.keys)
        # Adding up costs as much as there is: wait until it is worth while.
        if held > max(len(total.keys), max_pairs // 4):
            total, waiting, held = _sum([total, *waiting]).limited(max_pairs), [], 0
    return _sum([total, *waiting]).limited(max_pairs)


def _sum(parts: list[PairCounts]) -> PairCounts:
    whole = PairCounts(np.concatenate([p.keys for p in parts]), np.concatenate([p.counts for p in parts]))
    return PairCounts(lost=sum(p.lost for p in parts)) + whole


@dataclass
class RunCounts:
    """How often each run of tokens was met. A run is written with one character per token."""

    counts: Counter[str] = field(default_factory=Counter)
    min_frequency: int = 2
    """Runs are cut where neighbours were met less often than this."""

    def __add__(self, other: RunCounts) -> RunCounts:
        """The counts of both parts of a corpus."""
        return RunCounts(self.counts + other.counts, max(self.min_frequency, other.min_frequency))

    def bytes_held(self) -> int:
        """About the memory that the counts take."""
        sample = [sys.getsizeof(run) for run, _ in zip(self.counts, range(1000), strict=False)]
        return int(len(self.counts) * (sum(sample) / max(1, len(sample)) + 100))

    def cut_at_rarer(self, pairs: PairCounts, min_frequency: int) -> RunCounts:
        """The same counts with more cuts: where neighbours were met less often than `min_frequency`."""
        frequent, counts = pairs.frequent(min_frequency), Counter[str]()
        runs = list(self.counts.items())
        for first in range(0, len(runs), 100_000):
            part = runs[first : first + 100_000]
            ids, starts = _from_text(END.join(run for run, _ in part))
            texts = _to_text(ids, _cut(ids, starts, frequent)).split(END)
            # Every old run starts a new one, so that the pieces of each are found in order.
            numbers = np.cumsum(starts) - 1
            owner = numbers[_cut(ids, starts, frequent)]
            for text, n in zip(texts, owner.tolist(), strict=True):
                if len(text) > 1:
                    counts[text] += part[n][1]
        return RunCounts(counts, min_frequency)


def count_runs(
    stream: Iterable[tuple[np.ndarray, np.ndarray]], pairs: PairCounts, min_frequency: int, max_bytes: int
) -> RunCounts:
    """Count runs of at least two tokens.

    Args:
        stream: the same corpus that the pairs were counted on.
        pairs: its pairs.
        min_frequency: pairs met less often are never merged.
        max_bytes: where the counts take more memory than this, `min_frequency` is doubled.
    """
    result, frequent = RunCounts(min_frequency=min_frequency), pairs.frequent(min_frequency)
    for ids, starts in stream:
        runs = _to_text(ids, _cut(ids, starts, frequent)).split(END)
        result.counts.update(run for run in runs if len(run) > 1)
        while result.bytes_held() > max_bytes and len(frequent.keys):
            result = result.cut_at_rarer(pairs, 2 * result.min_frequency)
            frequent = pairs.frequent(result.min_frequency)
    return result


def add_runs(parts: Iterable[RunCounts], pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
    """Add up the runs of parts of a corpus, all cut at `min_frequency`; see `count_runs`.

    As long as they fit into `max_bytes`, neither the order of the parts nor their size matters.
    """
    result = RunCounts(min_frequency=min_frequency)
    for part in parts:
        if part.min_frequency < result.min_frequency:
            part = part.cut_at_rarer(pairs, result.min_frequency)
        result.counts.update(part.counts)
        while result.bytes_held() > max_bytes and len(pairs.frequent(result.min_frequency).keys):
            result = result.cut_at_rarer(pairs, 2 * result.min_frequency)
    return result


def _cut(ids: np.ndarray, starts: np.ndarray, frequent: PairCounts) -> np.ndarray:
    result: np.ndarray = starts.copy()
    result[1:] |= ~frequent.contains(pair_keys(ids))
    return result


def _to_text(ids: np.ndarray, starts: np.ndarray) -> str:
    """Runs as text, `END` between them."""
    if len(ids) and int(ids.max()) > MAX_IDS:
        raise TokenAdaptError(f"token ids above {MAX_IDS:,} cannot be counted")
    places = np.flatnonzero(starts[1:]) + 1
    characters = np.insert(ids.astype("<u4") + np.uint32(FIRST_CHARACTER), places, ord(END))
    return characters.tobytes().decode("utf-32-le")


def _from_text(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `_to_text`."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    is_end = characters == ord(END)
    starts = np.zeros(len(characters), dtype=bool)
    starts[:1] = True
    starts[1:] = is_end[:-1]
    return (characters[~is_end] - FIRST_CHARACTER).astype(np.int32), starts[~is_end]
