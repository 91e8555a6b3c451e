"""New rows as sparse combinations of shared tokens, fitted in the target's model."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.matching_pursuit import matching_pursuit
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.examples import shared_rows
from mergekit_tokenadapt.transfer.method import OF_TOKENS, Method
from mergekit_tokenadapt.transfer.transfer import Transfer


class Omp(Method):
    """Orthogonal matching pursuit: combine few shared tokens into the donor's row, and combine base rows likewise.

    The atoms are the donor's rows of the copied tokens that stand for text. The mathematics is that of mergekit's
    `batch_omp`. The module `numerics.matching_pursuit` explains what makes it fast.
    """

    summary: ClassVar[str] = (
        "weighted sums of a few shared tokens' rows, with weights fitted in the target model; TARGET must be a model"
    )
    source: ClassVar[str] = "Goddard and Fernandes Neto, arXiv 2506.06607; mergekit's tokensurgeon"
    unreachable_as_mean: ClassVar[bool] = True

    k: Annotated[int, OF_TOKENS] = Field(
        default=64, ge=1, description="shared tokens in the combination for a new token"
    )

    @property
    def needs_donor(self) -> bool:
        """True: combinations are fitted to the donor's rows."""
        return True

    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return a combination of base rows for each new token. Input and output matrix share it.

        A token whose donor row is zero gets an empty one.

        Raises:
            TokenAdaptError: no token is shared.
        """
        shared = shared_rows(transfer)
        if not shared:
            raise TokenAdaptError("method 'omp' makes new rows of the tokens that both models have, but there are none")
        assert transfer.donor is not None
        old_ids, atom_ids = torch.tensor(list(shared)), torch.tensor(list(shared.values()))
        atoms_SD = transfer.donor.rows_of(atom_ids).to(transfer.device)
        new_ND = transfer.donor.rows_of(torch.from_numpy(transfer.new_ids)).to(transfer.device)
        found = matching_pursuit(new_ND, atoms_SD, self.k, quiet=transfer.quiet, resumes=True)
        return SparseRows(found.indptr, old_ids[found.ids], found.weights)
