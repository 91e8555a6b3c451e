"""Let a model continue prompts, greedily or by sampling.

Letters: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.models.cache_names import cache_argument, cache_of


@torch.inference_mode()
def continue_prompts(
    model: Any,
    prompts_BT: Tensor,
    num_tokens: int,
    temperature: float,
    token_ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return prompts of one length and their continuations, int64 [B, T + num_tokens], on the CPU.

    Ids without a token are never chosen. An end-of-text token is chosen like any other.

    Args:
        model: a causal language model of transformers.
        prompts_BT: token ids, int64.
        num_tokens: number of tokens to add.
        temperature: temperature of sampling; 0 takes the most likely token.
        token_ids: the ids that have a token, ascending, int64 [V].
        generator: generator for sampling, on the CPU.
    """
    ids, inputs, cache = [prompts_BT], prompts_BT.to(model.device), None
    for _ in range(num_tokens):
        out = model(inputs, **{cache_argument(model): cache}, use_cache=True)
        cache = cache_of(out)
        logits_BV = out.logits[:, -1].float().cpu()[:, token_ids]
        if temperature == 0:
            places_B1 = logits_BV.argmax(1, keepdim=True)
        else:
            places_B1 = torch.multinomial((logits_BV / temperature).softmax(1), 1, generator=generator)
        ids.append(token_ids[places_B1])
        inputs = ids[-1].to(model.device)
    return torch.cat(ids, dim=1)
