"""Measure how fast a model heals: bits per byte of held-out text during a few steps of training.

The loss before training can mislead: training may repair the worse of two initialisations faster. Every model
reads the same passages in the same order, each in its own tokens. The loss is counted per byte, so steps are
comparable between models. Nothing is written: this is a measurement, not a way to train a model.

Letters: B passages in a batch, T positions, V logits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import HealingOptions
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.texts import TextSet, split_passages
from mergekit_tokenadapt.tokenizer.encoded_text import start_token

HELD_OUT_EVERY = 10
"""One passage of this many is held out."""
IGNORED = -100
"""Target id of padding positions, which the loss ignores."""


@dataclass(frozen=True)
class Passages:
    """The passages that every model reads."""

    training: tuple[str, ...]
    """Passages to train on, in the order of the steps."""
    held_out: tuple[str, ...]
    """Passages to score."""

    @classmethod
    def of(cls, texts: Sequence[TextSet], options: HealingOptions) -> Passages:
        """Divide the texts into passages. Every tenth one is held out, and the others are put into random order.

        Raises:
            TokenAdaptError: there are not enough passages for one step, or none is held out.
        """
        passages = [p for text in texts for d in text.documents for p in split_passages(d, options.passage_bytes)]
        held_out = TextSet("held out", tuple(passages[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]), "")
        training = [p for n, p in enumerate(passages) if n % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
        if not held_out.documents or len(training) < options.batch_size:
            raise TokenAdaptError(
                f"the text is too short to train on: {len(passages)} passages of about {options.passage_bytes} bytes, "
                f"and a step takes {options.batch_size}"
            )
        random.Random(options.seed).shuffle(training)
        return cls(tuple(training), held_out.limited(options.held_out_bytes).documents)

    def batch(self, step: int, size: int) -> list[str]:
        """Return the passages of a step. After the last passage, the first one follows again."""
        first = step * size
        return [self.training[n % len(self.training)] for n in range(first, first + size)]


def heal(
    models: Sequence[ModelFolder],
    texts: Sequence[TextSet],
    options: HealingOptions | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Train each model for a few steps, and score the held-out passages at intervals.

    Args:
        models: the models to compare.
        texts: texts to train on and to hold out passages of.
        options: see `HealingOptions`.
        say: is called with a line after each measurement.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: a model cannot be loaded, has no output matrix, or diverges; or the text is too short.
    """
    options = options or HealingOptions()
    # Every model reads the same passages, so the one with the fewest positions sets their length.
    if (longest := passage_limit(*(folder.config for folder in models))) is not None:
        options = options.model_copy(update={"passage_bytes": min(options.passage_bytes, longest)})
    passages = Passages.of(texts, options)
    return {
        "command": "probe-healing",
        "texts": [text.describe() for text in texts],
        "settings": options.model_dump() | {"learning_rate": options.rate},
        "held_out_bytes": sum(len(p.encode("utf-8")) for p in passages.held_out),
        "models": [_healed(folder, passages, options, say) for folder in models],
    }


def _healed(
    folder: ModelFolder, passages: Passages, options: HealingOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    model = load_model(folder, device=options.device, dtype="float32")
    optimizer = torch.optim.AdamW(
        trained_parameters(model, options.train, folder.name), lr=options.rate, weight_decay=0.0
    )
    curve = []
    for step in range(options.steps + 1):
        if step % options.every == 0 or step == options.steps:
            bits_per_byte = _held_out(model, folder, passages.held_out)
            curve.append({"step": step, "bits_per_byte": bits_per_byte})
            say(f"{folder.name}: step {step} of {options.steps}, {bits_per_byte:.3f} bits per byte")
            if not math.isfinite(bits_per_byte):
                raise TokenAdaptError(f"{folder.name} diverged in {step} steps: try a smaller --learning-rate")
        if step < options.steps:
            loss = _nats_per_byte(model, folder, passages.batch(step, options.batch_size))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {"name": folder.name, "curve": curve}


def trained_parameters(model: Any, which: str, name: str) -> list[torch.nn.Parameter]:
    """Return the parameters to train, and freeze all others. Tied matrices are one parameter.

    Args:
        model: a model of transformers.
        which: `rows` or `all`, see `HealingOptions.train`.
        name: name of the model for error messages.

    Raises:
        TokenAdaptError: rows are to be trained, and there is no output matrix.
    """
    if which == "all":
        return list(model.parameters())
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    if layers[1] is None:
        raise TokenAdaptError(f"{name} has no output matrix of its own to train")
    model.requires_grad_(False)
    rows = list({id(layer.weight): layer.weight for layer in layers}.values())
    return [weight.requires_grad_(True) for weight in rows]


def _held_out(model: Any, folder: ModelFolder, passages: Sequence[str]) -> float:
    """Return the bits per byte of the held-out passages."""
    done = score_documents(Scorer(model), folder.tokenizer, passages)
    return sum(d.bits for d in done) / sum(d.num_bytes for d in done)


def _nats_per_byte(model: Any, folder: ModelFolder, passages: Sequence[str]) -> Tensor:
    """Return the loss of a step: nats of all tokens, including the first of each passage, per byte of text."""
    encoder, start = folder.tokenizer.fast_tokenizer(), start_token(folder.tokenizer.vocabulary)
    prefix = [] if start is None else [start]
    sequences = [prefix + encoder.encode(p, add_special_tokens=False).ids for p in passages]
    longest = max(map(len, sequences))
    inputs_BT = torch.zeros((len(sequences), longest), dtype=torch.int64)
    targets_BT = torch.full_like(inputs_BT, IGNORED)
    for n, ids in enumerate(sequences):
        inputs_BT[n, : len(ids)] = torch.tensor(ids)
        targets_BT[n, : len(ids) - 1] = torch.tensor(ids[1:])
    # Padding is on the right, where the other positions of a causal model do not attend to it.
    logits_BTV = model(inputs_BT.to(model.device), use_cache=False).logits.float()
    nats = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten().to(model.device), ignore_index=IGNORED, reduction="sum"
    )
    return nats / sum(len(p.encode("utf-8")) for p in passages)
