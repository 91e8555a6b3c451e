"""Read a text with a model, to get the hidden state from which each token is predicted.

Letters: T tokens of a passage, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.body import body_of

BATCH_TOKENS = 2048
"""Tokens per batch, padding included. On a CPU, batches of 8,192 take 1.5 times as long per token (SmolLM2-135M),
because the tensors of each layer then get new pages from the operating system."""
SORTED_TOGETHER = 64
"""Number of sequences that are sorted by length before they are divided into batches. Sorting saves padding."""
PROBE_TOKENS = 8
"""Number of tokens on which the model's logits are compared with hidden state times output matrix."""


class Reader:
    """A causal language model whose input rows can be swapped. Use it as a context manager.

    Args:
        model: a model of transformers, on its device and in evaluation mode. It gets its own rows back on exit.
        wanted_by: the option that needs the model to be read, for error messages.

    Raises:
        TokenAdaptError: the model has no output matrix or one with a bias, or its logits are not its hidden states
            times its output matrix.
    """

    def __init__(self, model: Any, wanted_by: str = "calibration_text") -> None:
        self._model, self._wanted_by = model, wanted_by
        self._body = body_of(model)
        self._embedding = model.get_input_embeddings()
        self._own_rows = self._embedding.weight
        self._scale = self._measure_scale()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._embedding.weight = self._own_rows

    @property
    def scale(self) -> float:
        """The ratio of the logits to hidden state times output matrix."""
        return self._scale

    @property
    def input_rows(self) -> Tensor:
        """The model's own input matrix."""
        rows: Tensor = self._own_rows.detach()
        return rows

    @property
    def output_rows(self) -> Tensor:
        """The model's own output matrix. In a tied model this is the input matrix."""
        rows: Tensor = self._model.get_output_embeddings().weight
        return rows.detach()

    @torch.no_grad()
    def read(self, sequences: Sequence[Sequence[int]], start: int, input_rows: Tensor) -> Iterator[Tensor]:
        """Yield, for each sequence, the hidden states from which its tokens are predicted, float32 [T, D].

        Args:
            sequences: token ids, without a start token.
            start: the id that is put before each sequence, so that its first token can be predicted.
            input_rows: float [R, D]; the input matrix to read with.
        """
        self._embedding.weight = torch.nn.Parameter(input_rows.to(self._own_rows), requires_grad=False)
        for first in range(0, len(sequences), SORTED_TOGETHER):
            together = sequences[first : first + SORTED_TOGETHER]
            states: dict[int, Tensor] = {}
            for places in _batches([len(ids) for ids in together]):
                states |= zip(places, self._read_batch([together[n] for n in places], start), strict=True)
            yield from (states[n] for n in range(len(together)))

    def _read_batch(self, batch: Sequence[Sequence[int]], start: int) -> list[Tensor]:
        inputs_BT = torch.full((len(batch), max(1, *map(len, batch))), start, dtype=torch.int64)
        for n, ids in enumerate(batch):
            inputs_BT[n, 1 : len(ids)] = torch.as_tensor(ids)[:-1]
        return [states_TD[: len(ids)] for states_TD, ids in zip(self._states(inputs_BT), batch, strict=True)]

    def _states(self, inputs_BT: Tensor) -> Tensor:
        # Padding is on the right, where the other positions of a causal model do not attend to it. So no attention mask
        # is needed, and attention without a mask is faster.
        output = self._body(inputs_BT.to(self._model.device), use_cache=False)
        states: Tensor = output[0].float() * self._scale
        return states

    @torch.no_grad()
    def _measure_scale(self) -> float:
        """Measure the ratio of the logits to hidden state times output matrix. In most models it is 1.

        Raises:
            TokenAdaptError: there is no such ratio, because the model changes its logits in another way.
        """
        self._scale = 1.0  # `_states` multiplies by it, and the unscaled states are needed here
        head = self._model.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            raise TokenAdaptError(f"{self._wanted_by} needs a causal language model with an output matrix and no bias")
        ids = torch.arange(PROBE_TOKENS)[None] % len(self._own_rows)
        plain = self._states(ids) @ head.weight.float().T
        logits = self._model(ids.to(self._model.device), use_cache=False).logits.float()
        scale = float((logits * plain).sum() / plain.square().sum())
        tolerance = 0.02 * float(plain.abs().max()) * abs(scale)
        if not torch.allclose(logits, plain * scale, rtol=0.05, atol=tolerance):
            raise TokenAdaptError(
                f"{self._wanted_by} cannot be used with this model: it changes its logits after the output matrix "
                "(by soft-capping, for instance)"
            )
        # A ratio near 1 comes from rounding.
        return scale if abs(scale - 1) > 0.01 else 1.0


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Divide sequences, sorted by descending length, into batches of at most `BATCH_TOKENS`, padding included.

    A longer sequence is a batch of its own. Returns the places of the sequences of each batch.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        if not batches or (len(batches[-1]) + 1) * max(1, lengths[batches[-1][0]]) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(place)
    return batches
