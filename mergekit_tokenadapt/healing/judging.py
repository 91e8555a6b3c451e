"""Bits per byte of held-out passages and of built-in probes: is the model better than before?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.losses import WINDOW, Scorer, stride_for
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.output.requirements import config_content
from mergekit_tokenadapt.texts import BUILTIN, TextSet, builtin_text, split_passages
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

WORSE = 0.005
"""A text got worse where it costs more bits per byte than before by more than this share."""


def probes(num_bytes: int) -> list[TextSet]:
    """The beginning of every built-in text, of about so many bytes; none for 0."""
    found = []
    for name in BUILTIN if num_bytes else ():
        text = builtin_text(name)
        whole = "\n".join(text.documents)
        found.append(TextSet(name, (next(split_passages(whole, num_bytes)),), text.source))
    return found


def bits_per_byte(
    model: Any, tokenizer: TokenizerFiles, texts: Sequence[TextSet], *, fast: bool = False
) -> dict[str, float]:
    """Bits per byte of each text, by its name.

    Args:
        model: of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        texts: what to score.
        fast: compute in bfloat16 (autocast).
    """
    window = min(WINDOW, passage_limit(config_content(model.config)) or WINDOW)
    scorer = Scorer(model, window, stride_for(window))
    results = {}
    with torch.autocast(model.device.type, torch.bfloat16) if fast else nullcontext():
        for text in texts:
            done = score_documents(scorer, tokenizer, text.documents)
            results[text.name] = sum(d.bits for d in done) / sum(d.num_bytes for d in done)
    return results


def relative(now: Mapping[str, float], before: Mapping[str, float]) -> float:
    """The mean over texts of bits per byte, each relative to what it was before."""
    return sum(now[name] / max(before[name], 1e-9) for name in before) / len(before)


def worse(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """The texts that got worse, worst first."""
    change = {name: now[name] / max(before[name], 1e-9) - 1 for name in before}
    return sorted((name for name in change if change[name] > WORSE), key=lambda name: -change[name])
