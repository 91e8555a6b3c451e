"""New rows by a linear map from the rows of a model that has the new tokens."""

from __future__ import annotations

import logging
from typing import ClassVar

import torch

from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.examples import is_held_out, shared_rows
from mergekit_tokenadapt.transfer.method import Explanation, Method
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.row_regression import NO_EXAMPLES, RowRegression
from mergekit_tokenadapt.transfer.token_features import DenseFeatures
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

MAPPED = (
    "the row is mapped over from this token's row in the target's model; these pieces only stand in, with these "
    "weights, where there are too few shared tokens to fit the map"
)
"""What `explain` says about the weights of a mapped row."""


class DonorLinear(Method):
    """Fit a linear map from the donor's rows to the base model's, on the tokens that both have.

    Every copied token is an example: its row in the donor is the feature vector, its row in the base model the
    response. The L2 penalty of this ridge regression is chosen on held-out examples.
    """

    summary: ClassVar[str] = (
        "a linear map from the target model's rows, fitted on shared tokens; TARGET must be a model"
    )
    source: ClassVar[str] = "this project; the map is that of Mikolov et al., arXiv 1309.4168"
    has_regression: ClassVar[bool] = True

    @property
    def needs_donor(self) -> bool:
        """True: the donor's rows are the features."""
        return True

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the plain mean of the pieces, which is used if there are too few shared tokens to fit on."""
        return uniform(transfer.pieces)

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return that the weights are used only if there are too few shared tokens."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation(MAPPED))

    def make_regression(self, transfer: Transfer) -> RowRegression | None:
        """Return the regression with the shared tokens as examples; None if there are none."""
        shared = shared_rows(transfer)
        if not shared:
            LOG.warning(NO_EXAMPLES)
            return None
        assert transfer.donor is not None
        tokens = [transfer.base.vocabulary.by_id[old] for old in shared]
        rows = transfer.donor.rows(transfer.target.vocabulary.num_ids)
        return RowRegression(
            example_ids=torch.tensor(list(shared)),
            is_held_out=torch.tensor([is_held_out(token) for token in tokens]),
            examples=DenseFeatures(rows[torch.tensor(list(shared.values()))]),
            new_ids=torch.from_numpy(transfer.new_ids),
            new=DenseFeatures(rows[torch.from_numpy(transfer.new_ids)]),
        )
