"""Means of the pieces: with the script's usual norm for input, weighted by length for output (arXiv 2608.03494)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.scripts import script_of
from mergekit_tokenadapt.transfer.median_norms import MedianNorms
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.piece_weights import proportional, uniform
from mergekit_tokenadapt.transfer.transfer import Transfer


class BeyondInitializationLoss(Method):
    """Rescale the mean of the pieces to the script's usual norm (input), or weigh the pieces by length (output).

    For the pieces i = 1..m: input row = ``n mean_i(E[i]) / |mean_i(E[i])|``, where n is the median norm of the old rows
    of tokens in the new token's script. Output row = ``sum_i l_i E[i] / sum_i l_i``, where l_i is the number of
    characters of piece i. A script that no old token has counts as all scripts together. Tied rows are not rescaled.
    """

    summary: ClassVar[str] = "mean of the pieces with its script's median norm (input), or weighted by length (output)"
    source: ClassVar[str] = "Joshi et al. 2026, Beyond Initialization Loss, arXiv 2608.03494"

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of input rows, before they are rescaled."""
        return uniform(transfer.pieces)

    def weigh_output(self, transfer: Transfer) -> SparseRows:
        """Return the weights of output rows."""
        lengths = np.zeros(transfer.base_rows)
        for token in transfer.candidates:
            lengths[token.id] = max(1, token.num_characters)
        return proportional(transfer.pieces, lengths[transfer.pieces.ids])

    def input_norms(self, transfer: Transfer) -> MedianNorms:
        """Return each new token's script, and the old tokens of each script."""
        by_script: dict[str | None, list[int]] = {}
        for token in sorted(transfer.candidates, key=lambda token: token.id):
            by_script.setdefault(script_of(token), []).append(token.id)
        everything = [i for ids in by_script.values() for i in ids]
        place = {script: n for n, script in enumerate(by_script)}
        groups = [place.get(script_of(token), len(place)) for token in transfer.new_tokens]
        return MedianNorms.of(groups, [*by_script.values(), everything])
