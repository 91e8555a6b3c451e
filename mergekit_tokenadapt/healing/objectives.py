"""What is learned, by the option `objective`: how the text is read for it, and what a training step is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.healing.belonging import matched
from mergekit_tokenadapt.healing.chunk_teacher import ChunkTeacher
from mergekit_tokenadapt.healing.chunks import begins_word
from mergekit_tokenadapt.healing.collator import ChunkCollator, Collator
from mergekit_tokenadapt.healing.copying import new_words, with_copies
from mergekit_tokenadapt.healing.next_token import next_token_lesson
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.targets import Lesson, Passage, Teacher
from mergekit_tokenadapt.models.folder import ModelFolder


def lesson_for(
    model: ModelFolder,
    base: ModelFolder,
    passages: Sequence[str],
    options: HealOptions,
    device: torch.device,
    shards: Path | None,
    *,
    longest: int | None,
    goes_on: Callable[[], bool],
    quiet: bool,
) -> Lesson:
    """Read passages for the objective.

    Args:
        model: the model with the new tokenizer.
        base: the model that it was made from.
        passages: of the text, in the order of reading.
        options: the objective, and how many steps are made, if that is settled.
        device: to compute on.
        shards: where results are kept; None where nothing can be.
        longest: the most bytes of a passage that the models can read; None for any number.
        goes_on: asked before more is read.
        quiet: no progress.

    Raises:
        TokenAdaptError: the base model cannot be loaded, or changes its logits after the output matrix.
    """
    most = None if options.steps is None else options.steps * options.passages_per_step
    if options.objective == "next_token":
        return next_token_lesson(model, passages[:most])
    mapping = matched(model, base)
    if options.objective == "chunks":
        teacher: Teacher = ChunkTeacher(base, model, mapping, passages[:most], device)
    else:
        words = new_words(model.tokenizer.vocabulary, mapping)
        passages = with_copies(passages, words, options.copies, options.seed, longest)
        taught = None if most is None else max(1, round(most * (1 - options.unread_share)))
        teacher = Teacher(base, model, mapping, passages[:taught], device)
    lesson = teacher.teach(shards, goes_on=goes_on, quiet=quiet)
    lesson.passages += _plain(model, passages[:most], len(lesson.passages), options.unread_share)
    return lesson


def _plain(model: ModelFolder, passages: Sequence[str], num_read: int, share: float) -> list[Passage]:
    """Of the passages that the base model has not read, as many as make the given share of all that are trained on."""
    number = round(num_read * share / (1 - share))
    return next_token_lesson(model, passages[num_read : num_read + number], first=num_read).passages


def collator_for(model: ModelFolder, trained: Tensor, start: int, options: HealOptions) -> Collator:
    """What makes the input of a step.

    Args:
        model: the model with the new tokenizer.
        trained: int64, ascending: the rows that are trained.
        start: the token before each passage.
        options: the objective and its settings.
    """
    rows = model.num_rows
    settings: dict[str, Any] = {"trained": trained, "num_rows": rows, "start": start, "seed": options.seed}
    if options.objective == "chunks":
        return ChunkCollator(**settings, begins_word=begins_word(model.tokenizer.vocabulary, rows))
    return Collator(**settings, text_share=options.text_share)
