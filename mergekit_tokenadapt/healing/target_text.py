"""Text that the target of a draft model writes. The draft is healed on it, because that is what it has to predict.

The first tokens of passages of the user's texts are the prompts. The target continues them by sampling at temperature
1, which is the distribution that speculative decoding has to reproduce (arXiv 2211.17192).

Letters: B prompts, T tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.sampled_text import BATCH, NEW_TOKENS, Sampler, start_of
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.storage.model_state import state_of
from mergekit_tokenadapt.storage.shards import resumed, settle, settled, shard_folder
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.texts import TextSet, split_passages

PROMPT_TOKENS = 16
PROMPT_EVERY = 400
"""Bytes of text for which there is one prompt."""
LEAST_PROMPTS = 10
"""Prompts of each text: with fewer passages `heal` refuses a text."""
WRITTEN = "written"
"""Name of the number of batches that were written; see `settled`."""


@dataclass(frozen=True, eq=False)
class TargetWriter:
    """Continues prompts from texts with a model.

    Args:
        target: the model.
        texts: where the prompts come from.
        seed: of the choice of prompts and of sampling.

    Raises:
        TokenAdaptError: a text has too few prompts.
    """

    target: ModelFolder
    texts: Sequence[TextSet]
    seed: int

    def __post_init__(self) -> None:
        _ = self._batches

    @contextmanager
    def written(self, seconds: float, device: torch.device, *, quiet: bool) -> Iterator[list[TextSet]]:
        """Write, and yield one text for each text that gave prompts.

        What was written is kept in the cache until the ``with`` block ends, so that a run that was stopped goes on.

        Args:
            seconds: no batch is begun after so many, except the first of each text.
            device: to compute on.
            quiet: no progress.

        Raises:
            TokenAdaptError: the target cannot be loaded.
        """
        with shard_folder(f"target-text-{self._key}") as kept:
            yield self._write(kept, seconds, device, quiet=quiet)

    def _write(self, kept: Path | None, seconds: float, device: torch.device, *, quiet: bool) -> list[TextSet]:
        started = time.monotonic()
        limit = settled(kept, WRITTEN)
        documents: list[list[str]] = [[] for _ in self.texts]
        sampler = Sampler(self.target, self.seed, device)
        with progress(
            total=limit or len(self._batches), desc=f"{self.target.name} writes text", unit="batch", quiet=quiet
        ) as bar:
            for number, (place, prompts_BT) in enumerate(self._batches[:limit]):
                is_over = limit is None and number >= len(self.texts) and time.monotonic() - started > seconds
                if is_over:
                    limit = number
                    break
                made = resumed(kept, f"{number:06d}", partial(sampler.continued, prompts_BT, number))
                documents[place] += [sampler.text_of(ids) for ids in made["ids"].tolist()]
                bar.update(1)
        settle(kept, WRITTEN, limit or len(self._batches))
        return [
            TextSet.of(text.name, written, f"written by {self.target.name}, prompts from {text.source}")
            for text, written in zip(self.texts, documents, strict=True)
        ]

    @cached_property
    def _batches(self) -> list[tuple[int, Tensor]]:
        """The place of a text, and prompts from it [B, T]. The texts take turns."""
        of_texts = [self._batches_of(text) for text in self.texts]
        longest = max(map(len, of_texts))
        return [
            (place, batches[n]) for n in range(longest) for place, batches in enumerate(of_texts) if n < len(batches)
        ]

    def _batches_of(self, text: TextSet) -> list[Tensor]:
        passages = [p for document in text.documents for p in split_passages(document, PROMPT_EVERY)]
        encoder, start = self.target.tokenizer.fast_tokenizer(), start_of(self.target)
        encoded = [e.ids[:PROMPT_TOKENS] for e in encoder.encode_batch_fast(passages, add_special_tokens=False)]
        prompts = [start + ids for ids in encoded if len(ids) == PROMPT_TOKENS]
        if len(prompts) < LEAST_PROMPTS:
            raise TokenAdaptError(
                f"--heal-text {text.name}: {text.source!r} is too short: {self.target.name} needs {LEAST_PROMPTS} "
                f"prompts of {PROMPT_TOKENS} tokens, one in {PROMPT_EVERY} bytes, and it has {len(prompts)}"
            )
        random.Random(self.seed).shuffle(prompts)
        return list(torch.split(torch.tensor(prompts), BATCH))

    @property
    def _key(self) -> str:
        """Changes with everything that the text depends on, but the time."""
        hashes = [state_of(self.target.folder), *(text.sha256 for text in self.texts)]
        settings = [hashes, self.seed, PROMPT_TOKENS, NEW_TOKENS, PROMPT_EVERY, BATCH]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:40]
