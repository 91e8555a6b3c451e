"""Text that the base model writes itself. Its prompts are single tokens, drawn from its vocabulary.

Such text has the kinds and languages that the base model knows, also those that the user's texts lack.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mergekit_tokenadapt.healing.sampled_text import BATCH, Sampler, start_of
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.storage.shards import resumed, settle, settled
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

LOG = logging.getLogger(__name__)

WRITTEN = "own"
"""Name of the number of batches that were written; see `settled`."""


def own_passages(
    base: ModelFolder,
    number: int,
    seed: int,
    device: torch.device,
    shards: Path | None,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    quiet: bool,
) -> list[str]:
    """Let the base model write so many passages, or fewer where there is no time. Those without text are left out.

    Args:
        base: the base model.
        number: of passages.
        seed: of the prompts and of sampling.
        device: to compute on.
        shards: where the passages are kept, so that a run that was stopped goes on; None where nothing can be.
        goes_on: asked before each batch but the first.
        quiet: no progress.

    Raises:
        TokenAdaptError: the base model cannot be loaded.
    """
    ordinary = base.tokenizer.vocabulary.ids(TokenKind.ORDINARY)
    drawn = np.random.default_rng(seed).choice(ordinary, number)
    prompts_BT = torch.tensor([[*start_of(base), token] for token in drawn.tolist()])
    sampler = Sampler(base, seed, device)
    passages: list[str] = []
    batches = torch.split(prompts_BT, BATCH)
    limit = settled(shards, WRITTEN)
    with progress(total=number, desc="The base model writes text", unit="passage", quiet=quiet) as bar:
        for n, prompts in enumerate(batches[:limit]):
            if limit is None and n and not goes_on():
                limit = n
                LOG.warning("heal: there is time for %d of the %d passages of the base model's own", n * BATCH, number)
                break
            made = resumed(shards, f"own-{n:06d}", partial(sampler.continued, prompts, n))
            passages += [sampler.text_of(ids) for ids in made["ids"].tolist()]
            bar.update(len(prompts))
    settle(shards, WRITTEN, limit or len(batches))
    return [passage for passage in passages if passage.strip()]


def spread(added: Sequence[str], among: Sequence[str]) -> list[str]:
    """Put passages among others at even distances; the order of each is kept."""
    places = [(n + 0.5) * len(among) / len(added) for n in range(len(added))]
    ordered = sorted([*enumerate(among), *zip(places, added, strict=True)], key=lambda pair: pair[0])
    return [passage for _, passage in ordered]
