"""The base model reads the text for the objective `chunks`: it gives likelihoods of chunks instead of distributions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mergekit_tokenadapt.healing.chunks import ChunkedPassage, begins_word, chunks_of
from mergekit_tokenadapt.healing.targets import Passage, Teacher
from mergekit_tokenadapt.tokenizer.alignment import Encoded


class ChunkTeacher(Teacher):
    """A `Teacher` whose passages are `ChunkedPassage`."""

    def _prepare(self) -> None:
        """Nothing: chunks need no distributions."""

    def _made(self, pairs: Sequence[tuple[Encoded, Encoded]], states: Iterator[Tensor]) -> dict[str, Tensor]:
        boundary_V = begins_word(self.base.tokenizer.vocabulary, len(self._old_rows))
        found = [
            chunks_of(old, new, states_TD, self._old_rows, boundary_V)
            for (old, new), states_TD in zip(pairs, states, strict=True)
        ]
        return {
            "counts": torch.tensor([len(ends) for ends, _ in found]),
            "ends": torch.cat([ends for ends, _ in found]),
            "likelihoods": torch.cat([likelihoods for _, likelihoods in found]),
        }

    def _unpacked(self, made: dict[str, Tensor], shard: range) -> Iterator[Passage]:
        lengths, counts = made["lengths"].tolist(), made["counts"].tolist()
        ids, ends, likelihoods = (
            torch.split(made[name], sizes)
            for name, sizes in (("ids", lengths), ("ends", counts), ("likelihoods", counts))
        )
        for number, *one in zip(shard, ids, ends, likelihoods, strict=True):
            # Copies: what is taken from a file would keep all of it in memory.
            yield ChunkedPassage(number, one[0].long(), one[1].clone(), one[2].clone())
