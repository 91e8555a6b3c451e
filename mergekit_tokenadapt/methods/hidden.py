"""Rows from the base model's hidden states at the last piece of a token (Tokens2Words)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.last_states import LastStates
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.segmentation import Pieces
from mergekit_tokenadapt.tokenizer.vocabulary import Token
from mergekit_tokenadapt.transfer.examples import fraction, is_held_out, split_candidates
from mergekit_tokenadapt.transfer.method import Explanation, Method
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.row_regression import NO_EXAMPLES, RowRegression
from mergekit_tokenadapt.transfer.token_features import DenseFeatures
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

TRIED_EXAMPLES = 3000
"""Examples on which layers are compared."""
TRIED_LAYERS = 10
"""Layers that are compared, at even distances."""
MAPPED = (
    "the row is mapped from the base model's hidden state at the last of these pieces; the mean of their rows only "
    "stands in where there are too few examples to fit the map"
)
"""What `explain` says about the weights of a mapped row."""


class Hidden(Method):
    """Read a token's pieces with the base model, and map the hidden state at the last one to rows.

    In the middle layers of a language model, the state at a word's last piece stands for the word. A linear map from
    this state to rows is fitted for each matrix, by ridge regression, on base tokens that can be split into smaller
    ones: they are read in pieces, too, and their rows are known.
    """

    summary: ClassVar[str] = "a linear map from the base model's middle-layer state at the last piece of the token"
    source: ClassVar[str] = "Tokens2Words: Kaplan et al., From Tokens to Words, arXiv 2410.05864"
    has_regression: ClassVar[bool] = True
    needs_base_model: ClassVar[bool] = True

    layer: PositiveInt | None = Field(
        default=None, description="layer whose states are taken; none: the one that predicts held-out rows best"
    )
    examples: PositiveInt = Field(default=20_000, description="base tokens to fit the map on, at most")
    keep_pieces: bool = Field(
        default=False, description="whether output rows keep a share of their pieces' rows, as with calibrated"
    )

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the mean of the pieces, which is used if there are too few examples to fit on."""
        return uniform(transfer.pieces)

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return that the weights are used only if there are too few examples."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation(MAPPED))

    def make_regression(self, transfer: Transfer) -> RowRegression | None:
        """Read the pieces of examples and new tokens; return the regression, or None if there are no examples.

        Raises:
            TokenAdaptError: the base model cannot be loaded, or has fewer layers than `layer`.
        """
        splits = split_candidates(transfer)
        can_be_split = (n for n, split in enumerate(splits) if split)
        places = sorted(can_be_split, key=lambda n: fraction(transfer.candidates[n], salt=4))[: self.examples]
        if not places:
            LOG.warning(NO_EXAMPLES)
            return None
        tokens = [transfer.candidates[n] for n in places]
        pieces = Pieces.from_lists(splits[n] for n in places)
        reader = transfer.load_base_model()
        if self.layer is not None and self.layer > reader.num_layers:
            raise TokenAdaptError(f"layer: {self.layer} is too large: {transfer.base.name} has {reader.num_layers}")
        layer = self.layer or best_layer(reader, tokens, pieces, quiet=transfer.quiet)

        def features(sequences: Pieces, whose: str) -> DenseFeatures:
            desc = f"States of {whose} after layer {layer}"
            return DenseFeatures(reader.read(sequences, [layer], desc=desc, quiet=transfer.quiet)[:, 0])

        return RowRegression(
            example_ids=torch.tensor([t.id for t in tokens]),
            is_held_out=torch.tensor([is_held_out(token) for token in tokens]),
            examples=features(pieces, "old tokens"),
            new_ids=torch.from_numpy(transfer.new_ids),
            new=features(transfer.pieces, "new tokens"),
            keeps_pieces=self.keep_pieces,
        )


def best_layer(reader: LastStates, tokens: Sequence[Token], pieces: Pieces, *, quiet: bool) -> int:
    """Return the number of the layer whose states predict held-out rows best, in the mean of the model's matrices.

    Args:
        reader: the base model.
        tokens: base tokens; the first `TRIED_EXAMPLES` are read.
        pieces: what they are split into.
        quiet: no progress.
    """
    number = min(len(tokens), TRIED_EXAMPLES)
    some = Pieces.from_lists(pieces[n].tolist() for n in range(number))
    layers = np.unique(np.linspace(1, reader.num_layers, TRIED_LAYERS).round().astype(int)).tolist()
    states = reader.read(some, layers, desc="States of old tokens, to choose a layer", quiet=quiet)
    matrices = [(matrix.float(), matrix.isfinite().all(dim=1)) for matrix in reader.matrices]
    ids = torch.tensor([t.id for t in tokens[:number]])
    held_out = torch.tensor([is_held_out(token) for token in tokens[:number]])
    explained = []
    for m in range(len(layers)):
        features = DenseFeatures(states[:, m])
        regression = RowRegression(ids, held_out, features, ids[:0], features.select(ids[:0]))
        fits = [regression.fit(matrix, is_finite) for matrix, is_finite in matrices]
        explained.append(sum(fit.report.explained for fit in fits if fit is not None))
    best: int = layers[int(np.argmax(explained))]
    LOG.info("hidden: layer %d of %d predicts held-out rows best", best, reader.num_layers)
    return best
