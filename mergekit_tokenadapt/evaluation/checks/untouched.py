"""Check against the base model that a transplant left everything else bit-identical."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.pad_positions import POSITIONS, PadMove, move_between, pad_of
from mergekit_tokenadapt.numerics.row_math import difference_of
from mergekit_tokenadapt.output import MANIFEST, inputs_in
from mergekit_tokenadapt.output.configs import nested_sections
from mergekit_tokenadapt.tokenizer.files import read_json


def check_untouched(model: ModelFolder, origins: RowOrigins | None) -> Finding:
    """Check that tensors without a vocabulary axis and the settings in config.json equal the base's.

    Copied rows have to equal the base's, too, if the folder has a plan.
    """
    if origins is not None and origins.note:
        return Finding("untouched", Status.FAILED, origins.note)
    if origins is None or origins.base is None:
        return Finding("untouched", Status.SKIPPED, "needs the base model: give --base")
    base = origins.base
    if (number := len(inputs_in(model.folder))) > 1:
        return Finding("untouched", Status.SKIPPED, f"merged from {number} models")
    healing = read_json(model.folder / MANIFEST).get("healing")
    healed_steps = healing.get("steps") if isinstance(healing, Mapping) and healing.get("is_better") is True else None
    move, problems = _pad_move(model, base)
    problems += _changed_settings(model, base, move)
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
    copied = origins.copied_ids if origins.plan is not None else np.empty(0, dtype=np.int64)
    if len(copied):
        ids, sources = torch.from_numpy(copied), torch.from_numpy(origins.mapping.sources[copied])
        for name in model.vocabulary_tensors:
            old_name = _source_of(name, model, base)
            if old_name is None:
                continue
            old = base.rows(old_name)
            # A per-layer table may have fewer rows than the vocabulary. Ids beyond it use row 0.
            is_per_layer = base.checkpoint.stored[old_name].is_per_layer
            found = torch.where(sources < len(old), sources, 0) if is_per_layer else sources
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


def _source_of(name: str, model: ModelFolder, base: ModelFolder) -> str | None:
    """Return the base's vocabulary tensor that the rows of a model's come from; None if the base has none."""
    if name in base.tensors:
        return name
    # `untie` gives a tied model an output matrix that starts with the rows of the input matrix.
    is_untied = model.checkpoint.stored[name].is_output and base.checkpoint.tables.is_tied
    return base.input_matrix if is_untied else None


_OF_FILES = frozenset({"transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures", "auto_map"})
"""Keys of config.json that describe the files, and not how the model computes."""
_OF_VOCABULARIES = re.compile(r"vocab|(^|_)tie_|tokenizer_class|token")
"""Matches keys of config.json that a swap may change. Other checks are about them."""


def _changed_settings(model: ModelFolder, base: ModelFolder, move: PadMove | None) -> Iterator[str]:
    """Yield a message for each setting in config.json that differs from the base's, by transformers' reading.

    Args:
        move: how position tables were shifted, which changes their number of rows.
    """
    before, after = (_settings(folder.transformers_config.to_dict()) for folder in (base, model))
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key] and not (move is not None and key == POSITIONS):
            yield f"config.json: {key} is {after[key]!r}, {before[key]!r} in the base"


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that do not depend on the vocabulary; the levels of a key are joined by dots."""
    return {
        ".".join(map(str, (*path, key))): value
        for path, section in nested_sections(config)
        for key, value in section.items()
        if not isinstance(value, Mapping) and not any(map(_is_of_swap, (*path, key)))
    }


def _is_of_swap(key: Any) -> bool:
    return key in _OF_FILES or _OF_VOCABULARIES.search(str(key)) is not None


def _moved(name: str, base: ModelFolder, move: PadMove | None) -> Tensor:
    tensor = base.tensors.read(name)
    return move.shift(tensor) if move is not None and move.moves(name) else tensor
