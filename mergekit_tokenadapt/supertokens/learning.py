"""Merges across words, learned by the trainer of `tokenizers` from counted runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mergekit_tokenadapt.supertokens.counting import (
    END,
    FIRST_CHARACTER,
    PairCounts,
    RunCounts,
    Stream,
    count_pairs,
    count_runs,
)
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

FEED_CHARACTERS = 1 << 18
"""The trainer gets the runs in lines of about this length."""
OVERSHOOT = 1.25
"""More merges are asked for than wanted, because some break a rule only as a whole. More cost little; asking twice
costs the whole training again."""


@dataclass(frozen=True)
class NewMerge:
    """One merge to append."""

    left: str
    right: str
    """Spellings of what is merged."""
    is_new: bool
    """Whether the result is a new token; otherwise it is one that was learned before, in another way."""

    @property
    def spelling(self) -> str:
        """Of the result."""
        return self.left + self.right


def learn_merges(
    runs: RunCounts,
    vocabulary: Vocabulary,
    num_tokens: int,
    rules: Rules,
    *,
    in_one_piece: Callable[[str], bool] = lambda _text: True,
    show_progress: bool = False,
) -> list[NewMerge]:
    """Up to `num_tokens` new tokens, and the merges that make them, most frequent first.

    Args:
        runs: what was counted.
        vocabulary: the tokens that the runs are made of.
        num_tokens: new tokens wanted. Fewer come back where the text does not support them.
        rules: what new tokens may hold.
        in_one_piece: whether the result's pre-tokenizer leaves a text whole; what it cuts is no token.
        show_progress: let the trainer draw its bar.

    A merge whose result is a token that there is already is refused: old text would be cut differently.
    """
    if not runs.counts or not num_tokens:
        return []
    asked = int(OVERSHOOT * num_tokens) + 1
    while True:
        learned = _train(runs, asked, rules, show_progress)
        accepted = _accepted(learned, vocabulary, num_tokens, rules, in_one_piece)
        missing = num_tokens - sum(m.is_new for m in accepted)
        if not missing or len(learned) < asked:
            return accepted
        asked += max(2 * missing, asked // 2)


def _train(runs: RunCounts, num_merges: int, rules: Rules, show_progress: bool) -> list[tuple[str, str]]:
    """Merges over runs, in the runs' own characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(END, "removed")
    alphabet = set().union(*runs.counts)
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + num_merges,
        min_frequency=runs.min_frequency,
        show_progress=show_progress,
        # One character here is a whole token, of one character or more.
        max_token_length=rules.max_characters,
    )
    tokenizer.train_from_iterator(_lines(runs), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _lines(runs: RunCounts) -> Iterator[str]:
    """Every run as often as it was met, in an order that does not depend on the order of counting."""
    line: list[str] = []
    size = 0
    for run, count in sorted(runs.counts.items()):
        written = run + END
        at_once = max(1, FEED_CHARACTERS // len(written))
        while count:
            number = min(count, at_once)
            line.append(written * number)
            size += number * len(written)
            count -= number
            if size >= FEED_CHARACTERS:
                yield "".join(line)
                line, size = [], 0
    if line:
        yield "".join(line)


def _accepted(
    learned: Iterable[tuple[str, str]],
    vocabulary: Vocabulary,
    num_tokens: int,
    rules: Rules,
    in_one_piece: Callable[[str], bool],
) -> list[NewMerge]:
    """The merges that keep to the rules, as spellings, until there are enough new tokens."""
    refused: set[str] = set()
    spellings = {chr(FIRST_CHARACTER + t.id): t.spelling for t in vocabulary}
    contents = {chr(FIRST_CHARACTER + t.id): t.bytes for t in vocabulary}
    known = set(vocabulary.by_spelling)
    accepted: list[NewMerge] = []
    num_new = 0
    pairs: set[tuple[str, str]] = set()
    for left, right in learned:
        whole = left + right
        if left in refused or right in refused:
            refused.add(whole)
            continue
        content = contents[left] + contents[right]
        merge = NewMerge(spellings[left], spellings[right], spellings[left] + spellings[right] not in known)
        is_cut = not in_one_piece(content.decode("utf-8", errors="ignore"))  # parts of a character are never cut
        if is_cut or not rules.accept(content) or merge.spelling in vocabulary.by_spelling:
            refused.add(whole)
            continue
        if merge.is_new and num_new == num_tokens:
            break
        contents[whole], spellings[whole] = content, merge.spelling
        if (merge.left, merge.right) not in pairs:  # two ways to the same pair of tokens are one merge
            pairs.add((merge.left, merge.right))
            accepted.append(merge)
        known.add(merge.spelling)
        num_new += merge.is_new
    return accepted


@contextmanager
def spooled(stream: Stream) -> Iterator[Spool]:
    """A stream kept in a temporary file, 4 bytes per token, to be read again."""
    with tempfile.TemporaryFile(prefix="tokenadapt-") as file:
        yield Spool(stream, file)


class Spool:
    """Reads a stream once from where it comes from, writing it down, and then from the file: `TokenRuns`."""

    def __init__(self, stream: Stream, file: IO[bytes]) -> None:
        self._stream, self._file = stream, file
        self._sizes: list[int] = []

    def pairs(self, max_pairs: int) -> PairCounts:
        """Count pairs, once."""
        return count_pairs(self.first(), max_pairs)

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """Count runs, after the pairs."""
        return count_runs(self.again(), pairs, min_frequency, max_bytes)

    def first(self) -> Stream:
        """The stream itself. To be read to its end, once."""
        for ids, starts in self._stream:
            self._file.write(packed(ids, starts))
            self._sizes.append(len(ids))
            yield ids, starts

    def again(self) -> Stream:
        """The same from the file."""
        self._file.seek(0)
        for size in self._sizes:
            yield unpacked(self._file.read(4 * size))


def packed(ids: np.ndarray, starts: np.ndarray) -> bytes:
    """Token ids and whether a run starts there, 4 bytes each."""
    # The sign says whether a run starts here; ids are shifted, since there is no negative zero.
    return np.where(starts, -ids - 1, ids + 1).astype("<i4").tobytes()


def unpacked(written: bytes) -> tuple[np.ndarray, np.ndarray]:
    """What `packed` was given."""
    numbers = np.frombuffer(written, dtype="<i4")
    return np.abs(numbers) - 1, numbers < 0


def append_merges(model: Mapping[str, object], merges: Sequence[NewMerge], ids: Iterable[int]) -> dict[str, object]:
    """A copy of a BPE model with more merges; each new token takes the next of the given ids."""
    vocab: dict[str, int] = dict(model["vocab"])  # type: ignore[call-overload]
    free = iter(ids)
    for merge in merges:
        if merge.is_new:
            vocab[merge.spelling] = next(free)
    written: list[object] = list(model.get("merges") or ())  # type: ignore[call-overload]
    as_text = bool(written) and isinstance(written[0], str)
    written += [f"{m.left} {m.right}" if as_text else [m.left, m.right] for m in merges]
    return {**model, "vocab": vocab, "merges": written}
