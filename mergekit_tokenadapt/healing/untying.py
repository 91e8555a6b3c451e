"""One matrix for input and output, or two? The choice is made on held-out text, before healing."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.belonging import open_base
from mergekit_tokenadapt.healing.judging import bits_per_byte, relative
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.passages import HealingText
from mergekit_tokenadapt.healing.rendering import Renderer
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.loading import choose_device, fast_dtype, load_model
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.texts import TextSet

LEAST_GAIN = 0.005
"""A second matrix has to save this share of the bits per byte of held-out text."""


def choose_matrices(
    tied: Path,
    make_untied: Callable[[Path], object],
    texts: Sequence[TextSet],
    options: HealOptions,
    *,
    base: str,
    trust_remote_code: bool,
    say: Callable[[str], None],
) -> None:
    """Put an untied model in the place of a tied one where it is better on held-out text.

    Args:
        tied: the folder of a transplanted model. Nothing happens if it has two matrices.
        make_untied: writes the same transplant with two matrices into a folder.
        texts: the texts to heal on; of each, the passages that `heal` holds out are read.
        options: of `heal`.
        base: the model that it was made from.
        trust_remote_code: whether the models' own code may run.
        say: gets a line that names the figures.

    Raises:
        TokenAdaptError: a text is too short, or a model cannot be loaded.
    """
    model = open_model(str(tied), trust_remote_code=trust_remote_code)
    if not model.checkpoint.tables.is_tied:
        return
    with tempfile.TemporaryDirectory(prefix=".untied-", dir=tied.parent) as temporary:
        untied = Path(temporary, tied.name)
        try:
            with _warned_already():
                make_untied(untied)
        except TokenAdaptError as error:
            say(f"untie: input and output keep one matrix, because two cannot be made: {error}")
            return
        other = open_model(str(untied), trust_remote_code=trust_remote_code)
        models = [model.with_own_rows(), other.with_own_rows(tell=False)]
        teacher = open_base(models[0], base)
        held_out = HealingText.of(
            texts,
            options,
            Renderer(teacher.tokenizer, models[0].tokenizer),
            passage_limit(teacher.config, model.config),
        ).held_out
        before, after = (_bits(model, held_out, choose_device(options.device)) for model in models)
        change = relative(after, before) - 1
        added = math.prod(models[0].tensors.shape(models[0].input_matrix))
        figures = f"two matrices ({added:,} numbers more) change the bits per byte of held-out text by {change:+.1%}"
        if change > -LEAST_GAIN:
            say(f"untie: {figures}, so input and output keep one matrix; --untie makes two")
            return
        say(
            f"untie: {figures}, so input and output get two matrices, and `restore` cannot undo the swap; "
            "--no-untie keeps one"
        )
        shutil.rmtree(tied)
        untied.rename(tied)


@contextmanager
def _warned_already() -> Iterator[None]:
    """Keep the second swap from repeating the warnings of the first."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _bits(model: ModelFolder, texts: Sequence[TextSet], place: torch.device) -> dict[str, float]:
    loaded = load_model(model, device=str(place), dtype=fast_dtype(place))
    return bits_per_byte(loaded, model.tokenizer, texts)
