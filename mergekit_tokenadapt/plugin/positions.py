"""Position tables that move with the pad token's id, as tasks of mergekit's graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mergekit.common import ImmutableMap, ModelReference
from mergekit.io.tasks import GatherTensors, LoaderCache
from pydantic import ConfigDict

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.pad_positions import PadMove, find_pad_positions, pad_of, plan_move
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)


class GatherMoved(GatherTensors):  # type: ignore[misc]
    """Reads a position table of every model, and shifts its rows by the change of the model's pad token id."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    moves: ImmutableMap[ModelReference, PadMove]
    """How the table of each model is shifted. Models without an entry keep theirs."""

    def execute(self, **tensors: Any) -> dict[ModelReference, torch.Tensor]:
        """Return the shifted tables."""
        gathered = super().execute(**tensors)
        return {m: self.moves[m].shift(t) if m in self.moves else t for m, t in gathered.items()}


def move_of(reference: ModelReference, config: Any, transfer: Transfer) -> PadMove | None:
    """Return how the position table of an input model has to be shifted, or None.

    Some models (RoBERTa, for example) number positions from their pad token's id.

    Raises:
        TokenAdaptError: the model numbers positions from its pad token's id, and cannot do so with the target's.
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


def check_lengths(name: str, lengths: Mapping[ModelReference, int], moves: Mapping[ModelReference, PadMove]) -> None:
    """Check that the position tables of the models have one length after they are shifted.

    Args:
        name: of the table.
        lengths: number of rows of each model's table before.
        moves: how the table of each model is shifted.

    Raises:
        TokenAdaptError: the lengths differ.
    """
    after = {model: rows + (moves[model].distance if model in moves else 0) for model, rows in lengths.items()}
    if len(set(after.values())) > 1:
        told = ", ".join(f"{model}: {rows}" for model, rows in after.items())
        raise TokenAdaptError(
            f"{name} has to follow the pad token's id, and the models' tables then differ in length ({told}): "
            "they cannot be merged with this tokenizer"
        )


def _stand_in(ids: SpecialIds, pad: int) -> int | None:
    """Return a substitute for the pad token of a target that declares none.

    It is the token that the user chose, or a token with the spelling of the old pad token.
    """
    chosen, token = ids.in_role("pad", pad), ids.base.by_id.get(pad)
    same = ids.target.by_spelling.get(token.spelling) if token is not None else None
    return same.id if chosen is None and same is not None else chosen
