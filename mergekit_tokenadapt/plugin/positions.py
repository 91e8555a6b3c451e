"""Position tables that move with the pad token's id, on their way through mergekit's graph."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mergekit.common import ImmutableMap, ModelReference
from mergekit.io.tasks import GatherTensors, LoaderCache
from pydantic import ConfigDict

from mergekit_tokenadapt.models.pad_positions import PadMove, find_pad_positions, pad_of, plan_move
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)


class GatherMoved(GatherTensors):  # type: ignore[misc]
    """Read a position table of every model, and move its rows as the model's pad token moves."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    moves: ImmutableMap[ModelReference, PadMove]

    def execute(self, **tensors: Any) -> dict[ModelReference, torch.Tensor]:
        """The tables, moved."""
        gathered = super().execute(**tensors)
        return {m: self.moves[m].shift(t) if m in self.moves else t for m, t in gathered.items()}


def move_of(reference: ModelReference, config: Any, transfer: Transfer) -> PadMove | None:
    """What has to be done with one input model's positions; None where nothing has.

    Raises:
        TokenAdaptError: the model counts positions from its pad token, and cannot count from the target's.
    """
    old = pad_of(config)
    ids = SpecialIds(transfer.base.vocabulary, transfer.target.vocabulary, transfer.mapping)
    new = ids.target.roles.get("pad")
    if old is None or old == new:
        return None
    found = find_pad_positions(config, LoaderCache().get(reference).index.tensor_paths)
    if found is None:
        return None
    new = _stand_in(ids, old) if new is None else new
    move = plan_move(found, new, model=str(reference), target=transfer.target.name)
    if move is not None and move.distance > 0:
        LOG.warning(
            "%s counts positions from its pad token's id, which moves from %d to %d: its position table gets "
            "%d unused rows in front; a target whose pad token has a low id needs fewer",
            reference,
            old,
            new,
            move.distance,
        )
    return move


def _stand_in(ids: SpecialIds, pad: int) -> int | None:
    """A token for a target that declares no pad: one that the user chose, or one of the same spelling."""
    chosen, token = ids.in_role("pad", pad), ids.base.by_id.get(pad)
    same = ids.target.by_spelling.get(token.spelling) if token is not None else None
    return same.id if chosen is None and same is not None else chosen
