"""Hidden states of a model at the last token of short sequences, at chosen layers.

Letters: N sequences, L layers, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.body import body_of
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import fast_dtype, load_model
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.segmentation import Pieces
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

BATCH_TOKENS = 2048
"""Tokens that are read at a time."""


class _Reached(Exception):  # noqa: N818 - no error: it ends the forward pass after the last layer that is wanted
    pass


class LastStates:
    """A causal language model that reads short sequences, each after its start token.

    Args:
        model: of transformers.
        vocabulary: of its tokenizer.
        name: of the model, for messages.

    Raises:
        TokenAdaptError: the model's layers are not found.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, name: str) -> None:
        self._model = model
        self._start = start_token(vocabulary)
        self._body = body_of(model)
        self._layers = _layers_of(model, name)

    @classmethod
    def of_folder(cls, folder: ModelFolder, device: torch.device) -> LastStates:
        """Load a model from its folder.

        Raises:
            TokenAdaptError: the model cannot be loaded, or its layers are not found.
        """
        model = load_model(folder, device=str(device), dtype=fast_dtype(device))
        return cls(model, folder.tokenizer.vocabulary, folder.name)

    @property
    def num_layers(self) -> int:
        """The number of layers of the model."""
        return len(self._layers)

    @property
    def matrices(self) -> list[Tensor]:
        """See `vocabulary_matrices`."""
        return vocabulary_matrices(self._model)

    @torch.no_grad()
    def read(self, sequences: Pieces, layers: Sequence[int], *, desc: str, quiet: bool) -> Tensor:
        """Return the hidden state of the last token of each sequence after some layers.

        The model is not run beyond the last of them. A sequence without tokens gets zeros.

        Args:
            sequences: token ids.
            layers: numbers of layers, from 1, ascending.
            desc: what progress is called.
            quiet: no progress.

        Returns:
            float32 [N, L, D], on the CPU.
        """
        width = self._model.get_input_embeddings().weight.shape[1]
        found = torch.zeros(len(sequences), len(layers), width)
        with (
            _evaluating(self._model),
            progress(total=len(sequences), desc=desc, quiet=quiet, unit="token") as bar,
        ):
            for places in _batches(sequences.counts, with_start=self._start is not None):
                ids = np.stack([sequences[n] for n in places])
                for m, states_BD in enumerate(self._states(torch.from_numpy(ids), layers)):
                    found[torch.from_numpy(places), m] = states_BD
                bar.update(len(places))
        return found

    def _states(self, ids_BT: Tensor, layers: Sequence[int]) -> list[Tensor]:
        if self._start is not None:
            ids_BT = torch.cat([torch.full((len(ids_BT), 1), self._start), ids_BT], dim=1)
        states: list[Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            states_BTD = output[0] if isinstance(output, tuple) else output
            states.append(states_BTD[:, -1].float().cpu())
            if len(states) == len(layers):
                raise _Reached

        hooks = [self._layers[number - 1].register_forward_hook(keep) for number in layers]
        try:
            self._body(ids_BT.to(self._model.device), use_cache=False)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return states


def vocabulary_matrices(model: Any) -> list[Tensor]:
    """Return a model's input matrix, and its output matrix if that is another one; each [V, D], in its dtype."""
    inputs, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return [inputs.detach()] if head is None or head.weight is inputs else [inputs.detach(), head.weight.detach()]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _layers_of(model: Any, name: str) -> torch.nn.ModuleList:
    number = model.config.get_text_config().num_hidden_layers
    # The text layers come first: a vision tower may have as many layers.
    modules = [*model.get_decoder().modules(), *model.modules()]
    lists = [m for m in modules if isinstance(m, torch.nn.ModuleList) and len(m) == number]
    if not lists:
        raise TokenAdaptError(f"{name}: no list of {number} layers was found in the model, whose states are wanted")
    return lists[0]


def _batches(lengths: np.ndarray, *, with_start: bool) -> Iterator[np.ndarray]:
    """Yield the places of sequences of one length, so that nothing is padded; sequences without tokens are left out."""
    for length in np.unique(lengths[lengths > 0]).tolist():
        places = np.flatnonzero(lengths == length)
        size = max(1, BATCH_TOKENS // (length + with_start))
        yield from np.split(places, range(size, len(places), size))
