"""Learn merges across words from counted runs, with the BPE trainer of `tokenizers`."""

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
"""Length of one line of runs that the trainer gets, in characters."""
OVERSHOOT = 1.25
"""Merges asked of the trainer per wanted token.

Some merges are refused afterwards, because only the finished token shows that it breaks a rule. A few more merges cost
little, while asking again costs the whole training again.
"""


@dataclass(frozen=True)
class NewMerge:
    """One merge that is appended to a BPE model."""

    left: str
    right: str
    """Spellings of the two tokens that are merged."""
    is_new: bool
    """Whether the result is a new token. Otherwise an earlier merge of this training has made the same token from other
    parts.
    """

    @property
    def spelling(self) -> str:
        """Spelling of the resulting token."""
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
    """Learn up to `num_tokens` new tokens, and return the merges that make them, most frequent first.

    A merge that results in an existing token is refused, because it would change how old text is segmented.

    Args:
        runs: counted runs.
        vocabulary: the tokens in the runs.
        num_tokens: number of new tokens. Fewer are returned where the text has no more frequent pairs.
        rules: which texts a new token may have.
        in_one_piece: tells whether the result's pre-tokenizer leaves a text in one piece. A text that it splits cannot
            become a token.
        show_progress: let the trainer draw its progress bar.
    """
    if not runs.counts or not num_tokens:
        return []
    asked = int(OVERSHOOT * num_tokens) + 1
    while True:
        learned = _train(runs, asked, rules, show_progress)
        accepted = _accepted(learned, vocabulary, num_tokens, rules, in_one_piece)
        missing = num_tokens - sum(m.is_new for m in accepted)
        if not missing or len(learned) < asked:  # fewer merges than asked for: no pair is frequent enough any more
            return accepted
        asked += max(2 * missing, asked // 2)


def _train(runs: RunCounts, num_merges: int, rules: Rules, show_progress: bool) -> list[tuple[str, str]]:
    """Return merges over runs. Each token is a single character in them, see `FIRST_CHARACTER`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(END, "removed")
    alphabet = set().union(*runs.counts)
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + num_merges,
        min_frequency=runs.min_frequency,
        show_progress=show_progress,
        # One character here is a whole token with at least one character, so this limit is never too strict.
        max_token_length=rules.max_characters,
    )
    tokenizer.train_from_iterator(_lines(runs), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _lines(runs: RunCounts) -> Iterator[str]:
    """Yield every run as often as it occurred.

    The runs are sorted, because the trainer's result must not depend on the order in which they were counted.
    """
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
    """Return the merges that keep the rules, as spellings, until there are `num_tokens` new tokens."""
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
        # Bytes that are a part of a character are left out: pre-tokenizers split only between whole characters.
        is_split = not in_one_piece(content.decode("utf-8", errors="ignore"))
        if is_split or not rules.accept(content) or merge.spelling in vocabulary.by_spelling:
            refused.add(whole)
            continue
        if merge.is_new and num_new == num_tokens:
            break
        contents[whole], spellings[whole] = content, merge.spelling
        # The trainer may make one spelling from two pairs of runs' characters; a model may list a merge only once.
        if (merge.left, merge.right) not in pairs:
            pairs.add((merge.left, merge.right))
            accepted.append(merge)
        known.add(merge.spelling)
        num_new += merge.is_new
    return accepted


@contextmanager
def spooled(stream: Stream) -> Iterator[Spool]:
    """Write a stream to a temporary file (4 bytes a token) while it is read first, so that it can be read again."""
    with tempfile.TemporaryFile(prefix="tokenadapt-") as file:
        yield Spool(stream, file)


class Spool:
    """A `TokenRuns` that encodes the corpus once. The first reading writes a temporary file, and later ones read it."""

    def __init__(self, stream: Stream, file: IO[bytes]) -> None:
        self._stream, self._file = stream, file
        self._sizes: list[int] = []

    def pairs(self, max_pairs: int) -> PairCounts:
        """Count pairs. This reads the original stream, and can be called once."""
        return count_pairs(self.first(), max_pairs)

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """Count runs from the file. Call `pairs` first."""
        return count_runs(self.again(), pairs, min_frequency, max_bytes)

    def first(self) -> Stream:
        """Yield the original stream and write it to the file. It has to be read to its end."""
        for ids, starts in self._stream:
            self._file.write(packed(ids, starts))
            self._sizes.append(len(ids))
            yield ids, starts

    def again(self) -> Stream:
        """Yield the stream from the file."""
        self._file.seek(0)
        for size in self._sizes:
            yield unpacked(self._file.read(4 * size))


def packed(ids: np.ndarray, starts: np.ndarray) -> bytes:
    """Write token ids and run starts as bytes, 4 bytes a token."""
    # A negative number means that a run starts here. Ids are shifted by one, because there is no negative zero.
    return np.where(starts, -ids - 1, ids + 1).astype("<i4").tobytes()


def unpacked(written: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids and run starts that `packed` has written."""
    numbers = np.frombuffer(written, dtype="<i4")
    return np.abs(numbers) - 1, numbers < 0


def append_merges(model: Mapping[str, object], merges: Sequence[NewMerge], ids: Iterable[int]) -> dict[str, object]:
    """Return a copy of a BPE model with more merges. Each new token takes the next of the given ids."""
    vocab: dict[str, int] = dict(model["vocab"])  # type: ignore[call-overload]
    free = iter(ids)
    for merge in merges:
        if merge.is_new:
            vocab[merge.spelling] = next(free)
    written: list[object] = list(model.get("merges") or ())  # type: ignore[call-overload]
    as_text = bool(written) and isinstance(written[0], str)  # older files write a merge as "left right"
    written += [f"{m.left} {m.right}" if as_text else [m.left, m.right] for m in merges]
    return {**model, "vocab": vocab, "merges": written}
