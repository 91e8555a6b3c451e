"""Rows predicted by a regression that is fitted on the base model's own vocabulary."""

from __future__ import annotations

import logging
import math
import unicodedata
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mergekit_tokenadapt.methods.hybrid import Hybrid
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.segmentation import Pieces
from mergekit_tokenadapt.tokenizer.vocabulary import Token
from mergekit_tokenadapt.transfer.examples import is_held_out, like, shared_rows, split_candidates
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.method import OF_TOKENS, Explanation, Method
from mergekit_tokenadapt.transfer.piece_weights import places_from_start, proportional
from mergekit_tokenadapt.transfer.row_regression import NO_EXAMPLES, PIECES_SHARE, RowRegression
from mergekit_tokenadapt.transfer.token_features import DenseFeatures, JointFeatures, PieceFeatures, TokenFeatures
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

ENOUGH_SUPERTOKENS = 1000
"""With this many old tokens that span words, the regression has examples of supertokens, and predicts new ones."""
SPARE_NEIGHBOURS = 4
"""Factor by which more neighbours are searched for than needed, because examples lose the nearest ones (`_below`)."""
PREDICTED = (
    "the row is predicted from these pieces and neighbours by a regression; the mean of the pieces' "
    f"rows, with these weights, is {PIECES_SHARE[MatrixUse.INPUT]:.0%} of the row in an input matrix, "
    f"{PIECES_SHARE[MatrixUse.TIED]:.0%} in a tied one, {PIECES_SHARE[MatrixUse.OUTPUT]:.0%} in an output matrix"
)
"""What `explain` says about the weights of a predicted row."""


class Calibrated(Method):
    """Predict rows from a token's pieces and neighbours, by a regression fitted on the old tokens.

    Every old token that can be split into smaller ones is an example, and its row is the response. Examples
    are made as hard as the new tokens: they are split into as many pieces, and their neighbours are no nearer.
    The regression is a ridge regression whose L2 penalty is chosen on held-out examples. `Hybrid` makes
    supertokens, because a vocabulary of words has no examples of them.
    """

    summary: ClassVar[str] = (
        "rows predicted from pieces and neighbours by a regression fitted on the model's own vocabulary"
    )
    source: ClassVar[str] = "this project"
    needs_auxiliary: ClassVar[bool] = True
    has_regression: ClassVar[bool] = True
    unreachable_as_mean: ClassVar[bool] = True

    top_k: Annotated[int, OF_TOKENS] = Field(default=8, ge=1, description="neighbours of a token")
    donor: bool = Field(default=False, description="also predict from the rows of TARGET, which must be a model")

    @property
    def needs_donor(self) -> bool:
        """Whether the option `donor` is set."""
        return self.donor

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights used when no regression can be fitted, and blended into predicted output rows.

        Supertokens use `Hybrid`: the base vocabulary has too few to fit on, and a regression fitted on words
        makes worse rows for supertokens than any method that fits nothing (docs/supertokens.md).
        """
        beyond = unlike_any_example(transfer)
        if not beyond.any():
            return front_weighted(transfer)
        words, supertokens = transfer.among(transfer.new_ids[~beyond]), transfer.among(transfer.new_ids[beyond])
        parts = SparseRows.concatenate([front_weighted(words), Hybrid().weigh(supertokens).cpu()])
        order = np.argsort(np.concatenate([words.new_ids, supertokens.new_ids]))
        return parts.select(torch.from_numpy(order))

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return the pieces and neighbours that the regression uses; for supertokens, the weights of `Hybrid`."""
        beyond = unlike_any_example(transfer)
        told = dict.fromkeys(transfer.new_ids[beyond].tolist(), Explanation(f"a supertoken: {Explanation.weights_are}"))
        if beyond.all():
            return told
        words = transfer.among(transfer.new_ids[~beyond])
        found = [part.tolist() for part in words.neighbours(self.top_k)]
        for row, similarities, ids in zip(words.new_ids.tolist(), *found, strict=True):
            near = [(i, s) for i, s in zip(ids, similarities, strict=True) if s > -math.inf]
            told[row] = Explanation(PREDICTED, near)
        return told

    def make_regression(self, transfer: Transfer) -> RowRegression | None:
        """Return the features of examples and new tokens.

        None if no new token can be predicted, because all are supertokens, or if no base token can be split.
        """
        beyond = unlike_any_example(transfer)
        if beyond.all():
            return None
        # Supertokens are left out first: the examples are made like the new tokens that are predicted.
        if beyond.any():
            transfer = transfer.among(transfer.new_ids[~beyond])
        splits = split_candidates(transfer)
        shared = shared_rows(transfer) if self.donor else None
        places = [
            n for n, split in enumerate(splits) if split and (shared is None or transfer.candidates[n].id in shared)
        ]
        if not places:
            LOG.warning(NO_EXAMPLES)
            return None
        tokens = [transfer.candidates[n] for n in places]
        similarities, neighbours = (part.cpu() for part in transfer.neighbours(self.top_k))
        # Base tokens have nearer neighbours than new tokens have: inflected forms of one word, for instance. From such
        # examples, the regression would learn to rely on neighbours too much. So an example keeps only neighbours that
        # are no nearer than a new token's nearest one.
        spare = transfer.candidate_neighbours(SPARE_NEIGHBOURS * self.top_k, among=places)
        ceiling = torch.from_numpy(like(similarities[:, 0].numpy(), tokens, salt=2))
        example_neighbours = _below(spare[0].cpu(), spare[1].cpu(), ceiling, self.top_k)
        example_pieces = Pieces.from_lists(splits[n] for n in places)
        examples: TokenFeatures = _features(tokens, example_pieces, *example_neighbours)
        new: TokenFeatures = _features(transfer.new_tokens, transfer.pieces, similarities, neighbours)
        if shared is not None:
            assert transfer.donor is not None
            rows = transfer.donor.rows(transfer.target.vocabulary.num_ids)
            examples = JointFeatures(examples, DenseFeatures(rows[torch.tensor([shared[t.id] for t in tokens])]))
            new = JointFeatures(new, DenseFeatures(rows[torch.from_numpy(transfer.new_ids)]))
        return RowRegression(
            example_ids=torch.tensor([t.id for t in tokens]),
            is_held_out=torch.tensor([is_held_out(token) for token in tokens]),
            examples=examples,
            new_ids=torch.from_numpy(transfer.new_ids),
            new=new,
            keeps_pieces=True,
        )


def front_weighted(transfer: Transfer) -> SparseRows:
    """Return weights of each new token's pieces in the ratio 1, 1/2, 1/3, ..., without pieces of white space only.

    The model should predict a new token wherever it used to predict the token's first piece. Earlier pieces
    therefore get larger weights. White space gets none (unless there is nothing else), because it is predicted
    in too many other places.
    """
    pieces = transfer.pieces
    by_place = 1 / (1 + places_from_start(pieces))
    says_something = ~np.isin(pieces.ids, [token.id for token in transfer.base.vocabulary if token.is_blank])
    nothing_else = np.bincount(pieces.rows, says_something, minlength=len(pieces)) == 0
    return proportional(pieces, np.where(says_something | nothing_else[pieces.rows], by_place, 0))


def unlike_any_example(transfer: Transfer) -> np.ndarray:
    """Return which new tokens are supertokens without examples, bool [N].

    All are False if at least `ENOUGH_SUPERTOKENS` base tokens span words.
    """
    if sum(t.spans_words for t in transfer.candidates) >= ENOUGH_SUPERTOKENS:
        return np.zeros(len(transfer.new_tokens), dtype=bool)
    return np.array([t.spans_words for t in transfer.new_tokens], dtype=bool)


def _features(tokens: list[Token], pieces: Pieces, similarities: Tensor, neighbours: Tensor) -> PieceFeatures:
    """Return the features of some tokens: pieces, neighbours and what the text is like."""
    # Not `uniform`: that sorts the pieces, and the regression has to know which is first and which is last.
    weights = 1 / torch.from_numpy(pieces.counts).float()[torch.from_numpy(pieces.rows)]
    in_order = SparseRows(torch.from_numpy(pieces.indptr), torch.from_numpy(pieces.ids), weights)
    scalars = torch.tensor([_kind_of_text(t) for t in tokens], dtype=torch.float32)
    return PieceFeatures(in_order, neighbours.int(), similarities, scalars)


def _below(similarities: Tensor, neighbours: Tensor, ceiling: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the `top_k` most similar neighbours whose similarity is at most `ceiling`, one ceiling for each row.

    Where there are too few, the rest have the similarity -inf.
    """
    too_near = similarities > ceiling[:, None]
    order = too_near.to(torch.int8).argsort(dim=1, stable=True)[:, :top_k]
    kept = torch.where(too_near, -torch.inf, similarities).gather(1, order)
    return kept, neighbours.gather(1, order)


def _kind_of_text(token: Token) -> list[float]:
    """Return numbers about a token's text on which rows depend: leading space, length, and first character."""
    text = token.label
    core = text.removeprefix(" ")
    category = unicodedata.category(core[0]) if core else "Zs"
    kinds = ("Ll", "Lu", "Lo", "N", "P", "S", "Z", "C")
    return [
        float(text.startswith(" ")),
        float(core.isupper() and len(core) > 1),
        float(not text.isascii()),
        float(token.text is None),
        math.log(max(1, len(text))),
        math.log(max(1, len(token.bytes))),
        *(float(category.startswith(kind)) for kind in kinds),
    ]
