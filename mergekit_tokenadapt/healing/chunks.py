"""Approximate Likelihood Matching (ALM, arXiv 2503.20083): chunks of text shall be as likely as to the base model.

A chunk ends where both tokenizations have a boundary and where the base model gives a probability of more than
`LEAST_BOUNDARY` to tokens that begin a new word. Its likelihood is the product of its tokens' probabilities and of that
probability, because otherwise a chunk would not count the longer tokens that begin like its last token ("outcome chunk
debiasing"). The loss is the binary cross-entropy between the likelihoods, each to the power 1 / `TEMPERATURE`.

These are the settings of the authors' code for the transfer between subword vocabularies, but for the temperature: they
use 100 by default, and report 5 as better there.

Letters: T positions, P positions of all passages, C chunks, V rows, A trained rows, N sampled rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.correction.targets import TOGETHER
from mergekit_tokenadapt.healing.log_probabilities import log_probabilities
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.alignment import Encoded, standing_at
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary

TEMPERATURE = 5.0
LEAST_BOUNDARY = 0.1
"""The paper's gamma."""
EPSILON = 1e-6
"""Keeps likelihoods below 1; as in the authors' code."""
BOUNDARY_BYTES = (b" ", b"\t", b"\n")
"""A token that begins with one of these begins a new word; special tokens do, too."""


@dataclass(frozen=True)
class ChunkedPassage:
    """A passage in new tokens, with the base model's likelihoods of its chunks."""

    number: int
    """Of the passage, in the order of reading."""
    ids: Tensor
    """int64 [T]"""
    ends: Tensor
    """int64 [C], ascending: the position after the last token of each chunk. The first chunk begins at 0."""
    likelihoods: Tensor
    """float32 [C]: logarithms."""

    @property
    def targets(self) -> SparseRows:
        """The tokens of the text, as distributions: the rows that are to be trained."""
        return SparseRows(torch.arange(len(self.ids) + 1), self.ids, torch.ones(len(self.ids)))


def begins_word(vocabulary: Vocabulary, num_rows: int) -> Tensor:
    """bool [num_rows]: whether a token begins a new word."""
    found = torch.zeros(num_rows, dtype=torch.bool)
    for token in vocabulary:
        if token.id < num_rows:
            found[token.id] = token.kind is TokenKind.SPECIAL or token.bytes[:1] in BOUNDARY_BYTES
    return found


def chunks_of(
    old: Encoded, new: Encoded, states_TD: Tensor, matrix_VD: Tensor, boundary_V: Tensor
) -> tuple[Tensor, Tensor]:
    """The chunks of a passage: their ends, and their likelihoods under the base model.

    Args:
        old: the passage in old tokens.
        new: the passage in new tokens.
        states_TD: float [old tokens, D]; the states that predict each old token.
        matrix_VD: float [V, D]; the old output rows.
        boundary_V: bool [V]; the old tokens that begin a word.

    Returns:
        `ChunkedPassage.ends` and `ChunkedPassage.likelihoods`.
    """
    of_tokens, of_boundary = _read(old, states_TD, matrix_VD, boundary_V)
    places, passed = standing_at(old, new)
    shared = np.flatnonzero((places >= 0) & (passed == 0))
    shared = shared[shared > 0]
    at = torch.from_numpy(places[shared])
    is_end = of_boundary[at].exp() > LEAST_BOUNDARY
    ends, at = torch.from_numpy(shared)[is_end], at[is_end]
    before = torch.cat([torch.zeros(1, dtype=torch.float64), of_tokens.cumsum(0)])
    sums = before[at].diff(prepend=before[:1])
    return ends, (sums + of_boundary[at]).float()


def _read(old: Encoded, states_TD: Tensor, matrix_VD: Tensor, boundary_V: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms, float64 [old tokens]: of each token's probability, and of all boundary tokens' at its place."""
    of_tokens, of_boundary = [], []
    ids = torch.from_numpy(old.ids)
    for states, chosen in zip(states_TD.split(TOGETHER), ids.split(TOGETHER), strict=True):  # type: ignore[no-untyped-call]
        logs = (states @ matrix_VD.T).float().log_softmax(1).cpu()
        of_tokens.append(logs.gather(1, chosen[:, None])[:, 0].double())
        of_boundary.append(logs[:, boundary_V].logsumexp(1).double())
    return torch.cat(of_tokens), torch.cat(of_boundary)


def chunk_loss(
    states_PD: Tensor,
    rows_AD: Tensor,
    others_ND: Tensor,
    *,
    num_others: int,
    columns: Tensor,
    chunks: Tensor,
    ends: Tensor,
    likelihoods: Tensor,
    boundary: Tensor,
) -> Tensor:
    """The mean over chunks of the binary cross-entropy. The positions of all passages stand one after the other.

    Args:
        states_PD: hidden states, any floating dtype.
        rows_AD: output rows that are trained.
        others_ND: a random sample of the other output rows; no gradient.
        num_others: how many other output rows there are.
        columns: int64 [P]: the place of each position's token among the trained rows.
        chunks: int64 [P]: the chunk that a position belongs to; C for positions behind the last chunk of a passage.
        ends: int64 [C]: the position after each chunk's last token.
        likelihoods: float32 [C]: logarithms of the base model's likelihoods.
        boundary: bool [A + N]: whether the token of a trained or sampled row begins a word.

    Returns:
        float32 scalar.
    """
    of_tokens, of_boundary = log_probabilities(
        states_PD, rows_AD, others_ND, num_others=num_others, columns=columns, boundary=boundary
    )
    count = len(ends)
    sums = torch.zeros(count + 1, device=of_tokens.device).index_add(0, chunks, of_tokens)[:count]
    return binary_cross_entropy(likelihoods, sums + of_boundary[ends]).sum() / max(1, count)


def binary_cross_entropy(wanted: Tensor, predicted: Tensor) -> Tensor:
    """Between two likelihoods, of which logarithms are given, each to the power 1 / `TEMPERATURE`."""
    wanted = wanted.clamp(max=0) / TEMPERATURE - EPSILON
    predicted = predicted.clamp(max=0) / TEMPERATURE - EPSILON
    return -(wanted.exp() * predicted - torch.expm1(wanted) * torch.log(-torch.expm1(predicted)))


def joined(passages: Sequence[ChunkedPassage], place_of: Tensor, boundary: Tensor, longest: int) -> dict[str, Tensor]:
    """What `chunk_loss` takes, for passages that are padded to one length."""
    columns = torch.zeros(len(passages), longest, dtype=torch.int64)
    counts = [len(passage.ends) for passage in passages]
    chunks = torch.full((len(passages), longest), sum(counts))
    ends, first = [], 0
    for n, passage in enumerate(passages):
        columns[n, : len(passage.ids)] = place_of[passage.ids]
        positions = torch.arange(len(passage.ids))
        numbers = torch.searchsorted(passage.ends, positions, right=True)
        inside = numbers < counts[n]
        chunks[n, : len(passage.ids)][inside] = first + numbers[inside]
        ends.append(n * longest + passage.ends)
        first += counts[n]
    return {
        "columns": columns.flatten(),
        "chunks": chunks.flatten(),
        "ends": torch.cat(ends),
        "likelihoods": torch.cat([passage.likelihoods for passage in passages]),
        "boundary": boundary,
    }
