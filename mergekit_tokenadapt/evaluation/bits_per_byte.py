"""Bits per byte: how well a model predicts a text, whatever its tokenizer.

Perplexity per token does not compare across tokenizers: a tokenizer with longer tokens has fewer,
harder ones. Bits of the whole text, divided by its UTF-8 bytes, do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

WINDOW = 1024
"""Tokens that the model sees at a time."""
STRIDE = 512
"""Tokens scored per window; the rest of the window is context."""


@torch.inference_mode()
def token_losses(model: Any, token_ids: list[int], *, window: int = WINDOW, stride: int = STRIDE) -> Tensor:
    """Loss of every token but the first, which is context only, in nats: float64 [len(token_ids) - 1].

    Long texts are scored in windows that overlap: every token but those of the first window has at
    least ``window - stride`` tokens of context.
    """
    ids = torch.tensor(token_ids, dtype=torch.int64, device=model.device)
    losses = torch.zeros(max(0, len(ids) - 1), dtype=torch.float64)
    scored = 1
    while scored < len(ids):
        end = min(len(ids), window if scored == 1 else scored + stride)
        start = max(0, end - window)
        logits_TV = model(ids[None, start:end]).logits[0, scored - 1 - start : -1].float()
        losses[scored - 1 : end - 1] = (
            torch.nn.functional.cross_entropy(logits_TV, ids[scored:end], reduction="none").double().cpu()
        )
        scored = end
    return losses


def bits_per_byte(model: Any, tokenizer: Any, text: str) -> float:
    """Bits that the model needs for each UTF-8 byte of a text.

    The first token is predicted from the tokenizer's bos token (eos where it has no bos), so that
    every byte is paid for.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        text: at least one character.

    Raises:
        ValueError: the text is empty, or the tokenizer has neither bos nor eos.
    """
    if not text:
        raise ValueError("an empty text has no bits per byte")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError("the tokenizer has neither a bos nor an eos token to predict the first token from")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    losses = token_losses(model, [start, *ids])
    return float(losses.sum()) / math.log(2) / len(text.encode("utf-8"))
