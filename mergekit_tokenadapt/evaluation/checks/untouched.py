"""Check against the base model that a transplant left everything else bit-identical."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.pad_positions import PadMove, move_between, pad_of
from mergekit_tokenadapt.numerics.row_math import difference_of
from mergekit_tokenadapt.output import MANIFEST
from mergekit_tokenadapt.tokenizer.files import read_json


def check_untouched(model: ModelFolder, origins: RowOrigins | None) -> Finding:
    """Check that tensors without a vocabulary axis equal the base's, and copied rows, too, if the folder has a plan."""
    if origins is not None and origins.note:
        return Finding("untouched", Status.FAILED, origins.note)
    if origins is None or origins.base is None:
        return Finding("untouched", Status.SKIPPED, "needs the base model: give --base")
    base = origins.base
    healing = read_json(model.folder / MANIFEST).get("healing")
    healed_steps = healing.get("steps") if isinstance(healing, Mapping) and healing.get("is_better") is True else None
    move, problems = _pad_move(model, base)
    for name in sorted(set(model.tensors) | set(base.tensors)):
        if name in model.vocabulary_tensors or name in base.vocabulary_tensors:
            continue
        if name not in base.tensors or name not in model.tensors:
            problems.append(f"{name} is only in {model.name if name in model.tensors else base.name}")
        elif healed_steps is None and (difference := difference_of(_moved(name, base, move), model.tensors.read(name))):
            problems.append(f"{name} {difference}")
    lost = sorted(base.vocabulary_tensors.keys() - set(model.tensors))
    problems += [f"{name} is only in {base.name}" for name in lost]
    if healed_steps is not None and not problems:
        told = f"healed in {healed_steps} steps, so the weights need not equal the base's: same names and shapes"
        return Finding("untouched", Status.NOTED, told)
    shared = [n for n in model.vocabulary_tensors if n in base.tensors]
    copied = origins.copied_ids if origins.plan is not None else np.empty(0, dtype=np.int64)
    if len(copied):
        ids, sources = torch.from_numpy(copied), torch.from_numpy(origins.mapping.sources[copied])
        for name in shared:
            old = base.rows(name)
            # A per-layer table may have fewer rows than the vocabulary. Ids beyond it use row 0.
            found = (
                torch.where(sources < len(old), sources, 0) if base.checkpoint.stored[name].is_per_layer else sources
            )
            if difference := difference_of(old[found], model.rows(name)[ids]):
                problems.append(f"{name}, copied rows: {difference}")
    num_tensors = len(model.tensors.names) - len(model.vocabulary_tensors)
    good = f"{num_tensors} tensors bit-identical" + (f", and {len(copied):,} copied rows" if len(copied) else "")
    return passed_unless(problems, "untouched", good, tensors=num_tensors, copied_rows=len(copied))


def _pad_move(model: ModelFolder, base: ModelFolder) -> tuple[PadMove | None, list[str]]:
    """Return how position tables had to be shifted with the pad token's id, and the problem if they cannot be."""
    new = pad_of(model.transformers_config)
    try:
        move = move_between(base.transformers_config, base.tensors.names, new, model=base.name, target=model.name)
        return move, []
    except TokenAdaptError as error:
        return None, [str(error)]


def _moved(name: str, base: ModelFolder, move: PadMove | None) -> Tensor:
    tensor = base.tensors.read(name)
    return move.shift(tensor) if move is not None and move.moves(name) else tensor
