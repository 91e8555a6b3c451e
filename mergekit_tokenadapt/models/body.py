"""The body of a causal language model: the part that turns token ids into hidden states."""

from __future__ import annotations

from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError


def body_of(model: Any) -> Any:
    """Return the module whose first output are the hidden states that the output matrix is applied to.

    For most classes this is `base_model` of transformers. For some (Llama 4), `base_model` is the whole model.

    Args:
        model: a causal language model of transformers with an output matrix.

    Raises:
        TokenAdaptError: no such module is found.
    """
    head, body = model.get_output_embeddings(), model.base_model
    while any(module is head for module in body.modules()):
        inner = body.base_model if body.base_model is not body else getattr(body, "model", None)
        if inner is None:
            raise TokenAdaptError(f"{type(model).__name__}: the part before the output matrix is not found")
        body = inner
    return body
