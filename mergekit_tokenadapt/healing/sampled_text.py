"""Text that a model writes: it continues prompts by sampling at temperature 1, its own distribution.

Letters: B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.models.folder import ModelFolder, context_length
from mergekit_tokenadapt.models.generation import continue_prompts
from mergekit_tokenadapt.models.loading import fast_dtype, load_model
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

NEW_TOKENS = 112
"""Tokens that the model adds to a prompt, where its context has room for them."""
BATCH = 16
"""Prompts that are continued together."""


def start_of(model: ModelFolder) -> list[int]:
    """What stands before each prompt: the start token, where the model has one."""
    start = start_token(model.tokenizer.vocabulary)
    return [] if start is None else [start]


@dataclass(frozen=True, eq=False)
class Sampler:
    """Continues prompts. The model is loaded when the first prompts have to be continued.

    Args:
        model: the model.
        seed: of sampling.
        device: to compute on.
    """

    model: ModelFolder
    seed: int
    device: torch.device

    def continued(self, prompts_BT: Tensor, number: int) -> dict[str, Tensor]:
        """`ids`: prompts and continuations, int64.

        Args:
            prompts_BT: token ids; each prompt begins with `start_of` the model.
            number: of the batch. The same prompts get other continuations in another batch.
        """
        generator = torch.Generator().manual_seed(self.seed + number)
        token_ids = torch.from_numpy(self.model.tokenizer.vocabulary.ids())
        length = prompts_BT.shape[1]
        num_tokens = min(NEW_TOKENS, (context_length(self.model) or length + NEW_TOKENS) - length)
        return {"ids": continue_prompts(self._loaded, prompts_BT, num_tokens, 1.0, token_ids, generator)}

    def text_of(self, ids: Sequence[int]) -> str:
        """The text before the first special token, the start token not counted."""
        first = len(start_of(self.model))
        end = next((place for place in range(first, len(ids)) if ids[place] in self._special_ids), len(ids))
        return str(self.model.tokenizer.fast_tokenizer().decode(list(ids[first:end])))

    @cached_property
    def _loaded(self) -> Any:
        return load_model(self.model, device=str(self.device), dtype=fast_dtype(self.device))

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        vocabulary = self.model.tokenizer.vocabulary
        return frozenset(vocabulary.ids(TokenKind.SPECIAL).tolist()) | frozenset(vocabulary.roles.values())
