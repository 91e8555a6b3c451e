"""Rows predicted by a pretrained hypernetwork (ZeTT)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from mergekit_tokenadapt.models.hypernetwork import Hypernetwork
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.given_rows import GivenRows
from mergekit_tokenadapt.transfer.method import Explanation, Method
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

PREDICTED = "the row is predicted by the hypernetwork from the token's bytes; these weights are those of its pieces"
"""What `explain` says about the weights of a predicted row."""


class Zett(Method):
    """Let a hypernetwork that was trained for the base model predict the rows of new tokens.

    The hypernetwork reads the surface form of a token and the base model's rows. It predicts an input row and an output
    row.
    """

    summary: ClassVar[str] = "rows predicted by a hypernetwork that was trained for the base model"
    source: ClassVar[str] = "ZeTT: Minixhofer et al., Zero-Shot Tokenizer Transfer, arXiv 2405.07883"
    needs_base_model: ClassVar[bool] = True

    checkpoint: str = Field(description="folder or hub id of the hypernetwork")
    lang_index: int | None = Field(
        default=None, ge=0, description="number of the language, for hypernetworks that were trained with languages"
    )

    @property
    def files(self) -> Mapping[str, str]:
        """The checkpoint, unless it is a hub id."""
        is_id = self.checkpoint.count("/") <= 1 and not self.checkpoint.startswith((".", "/", "~"))
        return {} if is_id and not Path(self.checkpoint).exists() else {"checkpoint": self.checkpoint}

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the mean of the pieces, which vocabulary tensors other than matrices get."""
        return uniform(transfer.pieces)

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return that the rows are predicted."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation(PREDICTED))

    def give(self, transfer: Transfer) -> GivenRows:
        """Predict the rows of all new tokens.

        Raises:
            TokenAdaptError: the hypernetwork cannot be loaded or fails, or the base model cannot be loaded.
        """
        hypernetwork = Hypernetwork(self.checkpoint, transfer.device, trust_remote_code=transfer.trust_remote_code)
        forms, num_cut = hypernetwork.surface_forms([t.bytes for t in transfer.new_tokens])
        if num_cut:
            LOG.warning("zett: %d tokens are too long for the hypernetwork, which sees their beginnings", num_cut)
        source = torch.cat([matrix.float() for matrix in transfer.base_matrices()], dim=1)
        inputs, outputs = hypernetwork.predict(forms, source, self.lang_index, quiet=transfer.quiet)
        return GivenRows(torch.from_numpy(transfer.new_ids), inputs, outputs)
