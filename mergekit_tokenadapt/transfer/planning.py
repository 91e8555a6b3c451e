"""From a transfer to a plan: the method weighs the new tokens; copied, composed and mean rows are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.plan import TransferPlan

if TYPE_CHECKING:
    from mergekit_tokenadapt.transfer.transfer import Transfer


def plan_rows(transfer: Transfer) -> TransferPlan:
    """Let the transfer's method weigh the new tokens, and return the plan of all rows.

    Pieces and vectors that this makes stay cached in `transfer`. Use `Transfer.make_plan` to have them freed.

    Raises:
        TokenAdaptError: the method finds no shared token, or its weights are not finite.
    """
    mapping, method, has_new = transfer.mapping, transfer.method, len(transfer.new_ids) > 0
    text_ids = sorted(mapping.texts)
    from_texts = uniform(transfer.segmenter.segment([mapping.texts[i].encode("utf-8") for i in text_ids]))
    parts = [transfer.new_ids, np.array(text_ids, dtype=np.int64)]
    if transfer.defined is not None:
        from_texts = SparseRows.concatenate([from_texts, transfer.defined.composition])
        parts.append(transfer.defined.ids)
    ids = torch.from_numpy(np.concatenate(parts))
    compositions, drawn = from_texts, None
    if has_new:
        weights = method.weigh(transfer).cpu()
        compositions, drawn = SparseRows.concatenate([weights, from_texts]), method.draw(transfer, weights)
    for_output = method.weigh_output(transfer) if has_new else None
    has_twins = method.unreachable_as_mean and not mapping.is_identity
    twins = sorted(transfer.target.vocabulary.byte_twins) if has_twins else []
    unreachable = torch.tensor(twins, dtype=torch.int64)
    # The regression makes its examples as hard as the new tokens, so it needs all of them. For a few tokens only,
    # as in `explain`, the compositions have to do.
    regression = method.make_regression(transfer) if has_new and transfer.only is None else None
    given = method.give(transfer) if has_new and transfer.only is None else None
    # These rows need no pieces: another model's rows, or draws, make them.
    without_pieces = [made.new_ids for made in (drawn, given) if made is not None]
    if regression is not None and not regression.can_be_stored:
        without_pieces.append(regression.new_ids)
    is_made = torch.isin(ids, torch.cat([*without_pieces, ids[compositions.counts > 0]]))
    found = is_made & ~torch.isin(ids, unreachable)
    places = found.nonzero().flatten()
    composition = compositions.select(places)
    _check_weights(composition, ids[found], transfer)
    output_composition = None
    if for_output is not None:
        output_composition = SparseRows.concatenate([for_output.cpu(), from_texts]).select(places)
        _check_weights(output_composition, ids[found], transfer)
    norms = method.input_norms(transfer) if has_new else None
    options = method.model_dump(mode="json")
    return TransferPlan(
        mapping,
        ids[found],
        composition,
        transfer.method_name,
        options,
        regression,
        unreachable,
        output_composition=output_composition,
        input_norms=None if norms is None else norms.padded(len(ids)).select(places),
        drawn=drawn,
        glossary_ids=ids[found & torch.isin(ids, torch.from_numpy(transfer.defined.ids))]
        if transfer.defined is not None
        else torch.zeros(0, dtype=torch.int64),
        given=given,
    )


def _check_weights(composition: SparseRows, ids: Tensor, transfer: Transfer) -> None:
    """Refuse weights that are not finite before any row is made of them.

    Raises:
        TokenAdaptError: there are such weights.
    """
    bad = ~composition.weights.isfinite()
    if not bad.any():
        return
    row_of = torch.repeat_interleave(torch.arange(len(composition)), composition.counts)
    rows = ids[torch.from_numpy(np.unique(row_of[bad].numpy()))]
    token = transfer.target.vocabulary.by_id[int(rows[0])].spelling
    options = transfer.method.model_dump(mode="json")
    numbers = ", ".join(f"{k}: {v}" for k, v in options.items() if type(v) in (int, float))
    raise TokenAdaptError(
        f"method {transfer.method_name}: the weights of {len(rows)} new tokens are not finite, those of {token!r} for "
        f"one; look at its options ({numbers or 'it has none that are numbers'})"
    )
