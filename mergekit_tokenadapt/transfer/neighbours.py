"""Search for the candidate tokens that are nearest to other tokens in the auxiliary space.

Letters: Q queries, C candidates, A dimensions of the auxiliary space, k neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.inner_products import choose_search
from mergekit_tokenadapt.terminal.progress import progress

BLOCK = 512
"""Queries searched at a time."""
MAX_BLOCK_BYTES = 1 << 29
"""Largest size of the similarities in memory at a time. With many candidates, blocks are shorter."""


def nearest(
    queries_QA: Tensor,
    candidates_CA: Tensor,
    top_k: int,
    *,
    desc: str,
    own_Q: Tensor | None = None,
    block: int = BLOCK,
    quiet: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the `top_k` candidates with the largest cosine similarity to each query, most similar first.

    The similarities are computed in blocks, so the Q x C matrix is never in memory. A zero vector means that the
    auxiliary space knows nothing about a text. Its similarity to every candidate is -inf.

    Args:
        queries_QA: unit or zero vectors, float32.
        candidates_CA: unit or zero vectors, float32, on the same device.
        top_k: candidates wanted for each query.
        desc: label of the progress bar.
        own_Q: int64; where the queries are candidates themselves, their places, which are left out of the results.
        block: queries searched at a time, at most.
        quiet: whether to show no progress bar.

    Returns:
        Cosine similarities, float32 [Q, k], and places among the candidates, int64 [Q, k]; k = min(top_k, C). Where
        there are fewer than k candidates with a vector, the similarity is -inf and the place is 0.
    """
    known = candidates_CA.any(dim=1).nonzero().flatten()
    shape = (len(queries_QA), min(top_k, len(candidates_CA)))
    similarities_Qk, places_Qk = queries_QA.new_full(shape, -torch.inf), known.new_zeros(shape)
    search = choose_search(candidates_CA[known])
    # One more than asked for, because a query that is a candidate finds itself first.
    wanted = min(shape[1] + (own_Q is not None), len(known))
    block = max(1, min(block, MAX_BLOCK_BYTES // (4 * max(1, len(known)))))
    starts = range(0, len(queries_QA) if wanted else 0, block)
    for start in progress(starts, desc=desc, unit="block", quiet=quiet):
        part = slice(start, start + block)
        found_Qk, values_Qk = search.top(queries_QA[part], wanted)
        found_Qk = known[found_Qk]
        if own_Q is not None:
            found_Qk, values_Qk = _without(own_Q[part], found_Qk, values_Qk)
        similarities_Qk[part, : found_Qk.shape[1]], places_Qk[part, : found_Qk.shape[1]] = values_Qk, found_Qk
    similarities_Qk[~queries_QA.any(dim=1)] = -torch.inf
    return similarities_Qk, places_Qk


def _without(own_Q: Tensor, found_Qk: Tensor, values_Qk: Tensor) -> tuple[Tensor, Tensor]:
    """Leave each query out of its own neighbours.

    A query whose k neighbours are all as similar to it as it is to itself may be missing among them. The last
    neighbour is then left out, so that all queries keep the same number.
    """
    is_own = found_Qk == own_Q[:, None]
    is_own[~is_own.any(dim=1), -1] = True
    shape = (len(found_Qk), found_Qk.shape[1] - 1)
    return found_Qk[~is_own].view(shape), values_Qk[~is_own].view(shape)
