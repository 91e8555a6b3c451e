"""Bits per byte: how well a model predicts a text, independent of its tokenizer.

Perplexity per token cannot be compared across tokenizers, because longer tokens are fewer and each of them is harder to
predict. The bits of the whole text divided by its UTF-8 bytes can be compared.
"""

from __future__ import annotations

import math
from typing import Any


def bits_per_byte(model: Any, tokenizer: Any, text: str) -> float:
    """Return the bits that the model needs for each UTF-8 byte of a text.

    The first token is predicted from the tokenizer's bos token (eos if it has no bos), so that every byte counts. Long
    texts are scored in overlapping windows, see `losses.windows`.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer, loaded by transformers.
        text: at least one character.

    Raises:
        ValueError: the text is empty, or the tokenizer has neither bos nor eos.
    """
    from mergekit_tokenadapt.models.losses import Scorer  # here: the package's options need no torch

    if not text:
        raise ValueError("an empty text has no bits per byte")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError("the tokenizer has neither a bos nor an eos token to predict the first token from")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    (losses,) = Scorer(model).score([[start, *ids]])
    return float(losses.sum()) / math.log(2) / len(text.encode("utf-8"))
