"""The teacher's pass: what the base model, reading in its own tokens, predicts for each new token.

The base model reads each passage once. Its distributions over old tokens become distributions over new tokens
(`correction.targets`), of which the likeliest are kept, with the probability of the rest. They are written in shards,
so that a run that was stopped goes on, and a second pass over the text costs nothing.

Letters: T new tokens of a passage, Z kept probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mergekit_tokenadapt.correction.states import Reader
from mergekit_tokenadapt.correction.targets import TargetMaker
from mergekit_tokenadapt.healing.rendering import encoded_pair
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import fast_dtype, load_model
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.storage.shards import resumed, settle, settled
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.alignment import Encoded
from mergekit_tokenadapt.tokenizer.encoded_text import first_token
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matching import VocabularyMap

SHARD = 8
"""Passages in a file."""
READ = "read"
"""Name of the number of passages that were read; see `settled`. The trained rows depend on it."""
WANTED_BY = "heal"


class Passage(Protocol):
    """A passage in new tokens that is trained on."""

    @property
    def number(self) -> int:
        """Of the passage, in the order of reading."""

    @property
    def ids(self) -> Tensor:
        """int64 [T]"""

    @property
    def targets(self) -> SparseRows:
        """T distributions over the new tokens whose rows the passage trains."""


@dataclass(frozen=True)
class TaughtPassage:
    """A passage in new tokens, with what the base model predicts for each of them."""

    number: int
    """Of the passage, in the order of reading."""
    ids: Tensor
    """int64 [T]"""
    indptr: Tensor
    """int64 [T + 1]: which of the kept probabilities belong to each position."""
    target_ids: Tensor
    """int32 [Z]: new tokens."""
    weights: Tensor
    """float16 [Z]: their probabilities."""

    @property
    def targets(self) -> SparseRows:
        """T distributions over new tokens, empty where there is none. What is missing to 1 is unlikely tokens."""
        return SparseRows(self.indptr, self.target_ids.long(), self.weights.float())


@dataclass
class Lesson:
    """Passages that the base model has read, and what it took."""

    passages: list[Passage] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on reading, not counting what was kept from an earlier run."""
    tokens_read: int = 0
    """New tokens whose targets were made in these seconds."""

    @property
    def seconds_per_thousand(self) -> float | None:
        """Seconds for the targets of 1,000 new tokens; None where all were there already."""
        return 1000 * self.seconds / self.tokens_read if self.tokens_read else None


@dataclass(frozen=True, eq=False)
class Teacher:
    """The base model, which is loaded when the first passage has to be read.

    Args:
        base: the base model.
        model: the model with the new tokenizer; only its tokenizer is used.
        mapping: how their vocabularies match.
        passages: all that may be read, in the order of reading.
        device: to compute on.
    """

    base: ModelFolder
    model: ModelFolder
    mapping: VocabularyMap
    passages: Sequence[str]
    device: torch.device

    def teach(self, shards: Path | None, *, goes_on: Callable[[], bool], quiet: bool) -> Lesson:
        """Read passages, shard by shard, as long as time is left.

        Args:
            shards: where the results are kept; None where nothing can be.
            goes_on: asked before each shard but the first; shards that are there already are taken in any case.
            quiet: no progress.

        Raises:
            TokenAdaptError: the base model cannot be loaded, or changes its logits after the output matrix.
        """
        lesson = Lesson()
        limit = settled(shards, READ)
        most = len(self.passages) if limit is None else limit
        with progress(total=most, desc="The base model reads the text", unit="passage", quiet=quiet) as bar:
            for first in range(0, most, SHARD):
                name = f"{first:06d}"
                if limit is None and lesson.passages and not _is_there(shards, name) and not goes_on():
                    break
                places = range(first, min(first + SHARD, len(self.passages)))
                lesson.passages += self._unpacked(resumed(shards, name, partial(self._read, places, lesson)), places)
                bar.update(len(places))
        settle(shards, READ, len(lesson.passages))
        return lesson

    def _read(self, places: range, lesson: Lesson) -> dict[str, Tensor]:
        reader, pairs = self._reader, [self._pairs[n] for n in places]
        self._prepare()
        started = time.monotonic()
        states = reader.read([old.ids.tolist() for old, _ in pairs], self._start, reader.input_rows)
        made = self._made(pairs, states)
        lesson.seconds += time.monotonic() - started
        lesson.tokens_read += sum(len(new.ids) for _, new in pairs)
        return {
            "ids": torch.cat([torch.from_numpy(new.ids) for _, new in pairs]).int(),
            "lengths": torch.tensor([len(new.ids) for _, new in pairs]),
            **made,
        }

    def _prepare(self) -> None:
        """Make what all passages share, so that its time does not count as that of the first ones."""
        _ = self._maker

    def _made(self, pairs: Sequence[tuple[Encoded, Encoded]], states: Iterator[Tensor]) -> dict[str, Tensor]:
        """The targets of some passages, as they are kept in a file."""
        targets = [
            self._maker.make(old, new, states_TD, self._old_rows, normalised=False)
            for (old, new), states_TD in zip(pairs, states, strict=True)
        ]
        joined = SparseRows.concatenate(targets)
        return {"indptr": joined.indptr, "target_ids": joined.ids.int(), "weights": joined.weights.half()}

    def _unpacked(self, made: dict[str, Tensor], shard: range) -> Iterator[Passage]:
        """The passages of a file."""
        first = 0
        for number, length in zip(shard, made["lengths"].tolist(), strict=True):
            bounds = made["indptr"][first : first + length + 1]
            kept = slice(int(bounds[0]), int(bounds[-1]))
            ids = made["ids"][first : first + length].long()
            # Copies: what is taken from a file would keep all of it in memory.
            yield TaughtPassage(
                number, ids, bounds - bounds[0], made["target_ids"][kept].clone(), made["weights"][kept].clone()
            )
            first += length

    @cached_property
    def _reader(self) -> Reader:
        return Reader(load_model(self.base, device=str(self.device), dtype=fast_dtype(self.device)), WANTED_BY)

    @cached_property
    def _old_rows(self) -> Tensor:
        return self._reader.output_rows.float()

    @cached_property
    def _pairs(self) -> list[tuple[Encoded, Encoded]]:
        """Every passage in old and in new tokens."""
        tokenizers = self.base.tokenizer, self.model.tokenizer
        encoders = tokenizers[0].fast_tokenizer(), tokenizers[1].fast_tokenizer()
        return [encoded_pair(passage, encoders, tokenizers) for passage in self.passages]

    @cached_property
    def _maker(self) -> TargetMaker:
        new = self.model.tokenizer
        segmenter = Segmenter(new.definition, new.vocabulary)
        base = self.base.tokenizer.vocabulary
        return TargetMaker(base, self.base.num_rows, new.vocabulary, self.mapping, segmenter, self._pairs)

    @property
    def _start(self) -> int:
        return first_token(self.base.tokenizer.vocabulary)


def _is_there(shards: Path | None, name: str) -> bool:
    return shards is not None and (shards / f"{name}.safetensors").is_file()
