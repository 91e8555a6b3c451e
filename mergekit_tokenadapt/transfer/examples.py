"""Base tokens as examples for a regression that predicts rows: how they are split, and which are held out.

All choices depend on the tokens' bytes only, so that every run makes the same ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from mergekit_tokenadapt.tokenizer.decomposition import Decomposer
from mergekit_tokenadapt.tokenizer.vocabulary import Token
from mergekit_tokenadapt.transfer.matching import Reason

if TYPE_CHECKING:  # a transfer holds a method, and methods choose examples
    from mergekit_tokenadapt.transfer.transfer import Transfer

HELD_OUT = 0.1
"""Share of the examples that are held out, to choose the penalty and to measure the error."""


def split_candidates(transfer: Transfer) -> list[list[int]]:
    """Split the candidates into smaller base tokens, so that the numbers of pieces are like those of the new tokens.

    Returns:
        The ids of the pieces of each candidate; an empty list if it cannot be split.
    """
    decomposer = Decomposer(transfer.base.definition, transfer.base.vocabulary, transfer.base_rows)
    wanted = like(transfer.pieces.counts[transfer.pieces.counts > 1], transfer.candidates, salt=1)
    return [decomposer.split(token, int(n)) for token, n in zip(transfer.candidates, wanted, strict=True)]


def is_held_out(token: Token) -> bool:
    """Return whether an example is held out. This depends on the token's bytes only, so that all runs agree."""
    return fraction(token, salt=3) < HELD_OUT


def shared_rows(transfer: Transfer) -> dict[int, int]:
    """Return base id to target id of the copied tokens that stand for text, by ascending target id.

    Byte twins are left out, because their rows are untrained. Where several target tokens copy one base row, the first
    is taken.
    """
    usable = {token.id for token in transfer.candidates}
    found: dict[int, int] = {}
    for row in transfer.mapping.ids(Reason.COPIED).tolist():
        if (old := int(transfer.mapping.sources[row])) in usable and row not in transfer.target.vocabulary.byte_twins:
            found.setdefault(old, row)
    return found


def like(population: np.ndarray, tokens: list[Token], *, salt: int) -> np.ndarray:
    """Return a value for each token, distributed like the population.

    The value depends on the token's bytes and on `salt` only, so every run draws the same. An empty population gives 2,
    the smallest number of pieces.
    """
    if not len(population):
        return np.full(len(tokens), 2)
    ordered = np.sort(population)
    places = [int(fraction(token, salt=salt) * len(ordered)) for token in tokens]
    return ordered[places]


def fraction(token: Token, *, salt: int) -> float:
    """Return a pseudo-random number in [0, 1) that depends on the token's bytes and kind, not on its id."""
    digest = hashlib.blake2b(token.bytes + token.kind.value.encode(), digest_size=4, salt=bytes([salt])).digest()
    return int.from_bytes(digest, "big") / 2**32
