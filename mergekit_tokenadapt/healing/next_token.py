"""Plain next-token training: the target of each position is the token that follows in the text.

This is what healing is compared with. The base model is not asked, so that all time is left for training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergekit_tokenadapt.healing.targets import Lesson, TaughtPassage
from mergekit_tokenadapt.models.folder import ModelFolder


def next_token_lesson(model: ModelFolder, passages: Sequence[str], first: int = 0) -> Lesson:
    """Passages in the tokens of `model`, numbered from `first`, with all probability on the token that follows."""
    encoded = model.tokenizer.fast_tokenizer().encode_batch_fast(list(passages), add_special_tokens=False)
    lesson = Lesson()
    for number, one in enumerate(encoded, first):
        ids = torch.tensor(one.ids, dtype=torch.int64)
        ones = torch.ones(len(ids), dtype=torch.float16)
        lesson.passages.append(TaughtPassage(number, ids, torch.arange(len(ids) + 1), ids.int(), ones))
    return lesson
