"""Tell which rows of a model are new, and which are copied from which old row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.identity import is_described_by
from mergekit_tokenadapt.numerics.row_math import row_norms
from mergekit_tokenadapt.output import PLAN, file_hashes, inputs_in
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap, match
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan


@dataclass(frozen=True)
class RowOrigins:
    """The rows of `model` in terms of the base model's vocabulary."""

    model: ModelFolder
    mapping: VocabularyMap
    """Reason and source of each row."""
    plan: TransferPlan | None
    """The plan from the model's folder, if it has one."""
    base: ModelFolder | None
    """The model whose ids the mapping's sources are, if it is known."""
    note: str | None = None
    """Why a model that was given as the base was not accepted as such."""

    @property
    def new_ids(self) -> np.ndarray:
        """Ids of tokens that the base vocabulary does not have, ascending, int64.

        If there is a plan, its mean rows are left out, because they are no token's own row.
        """
        ids = self.mapping.ids(Reason.NEW)
        return ids if self.plan is None else np.setdiff1d(ids, self.plan.mean_ids.numpy())

    @property
    def copied_ids(self) -> np.ndarray:
        """Ids whose row is a copy of an old row, ascending, int64."""
        return np.flatnonzero(self.mapping.sources >= 0) if self.plan is None else self.plan.copied_ids.numpy()

    def old_norms(self, name: str) -> Tensor:
        """Return the Euclidean norms of the old rows of a vocabulary matrix, float32.

        These are the base's rows, or the copied rows if there is no base.
        """
        if self.base is not None and name in self.base.tensors:
            matrix = self.base.rows(name)
            ids = [t.id for t in self.base.tokenizer.vocabulary if t.id < len(matrix)]
            return row_norms(matrix)[ids]
        return row_norms(self.model.rows(name))[torch.from_numpy(self.copied_ids)]


def find_origins(model: ModelFolder, base: ModelFolder | None) -> RowOrigins | None:
    """Find the origins of a model's rows from the plan in its folder, or by matching with the base's vocabulary.

    A plan has ids of the model that the folder was made from. If `base` is another model, these ids are other tokens
    there. The result then has no base, and its `note` says so.

    Args:
        model: the model whose rows to describe.
        base: the model that it is compared with, if any.

    Returns:
        The origins, or None if there is neither a plan nor a base.

    Raises:
        TokenAdaptError: the plan cannot be read.
    """
    file = model.folder / PLAN
    if file.is_file():
        plan = load_plan(file)
        note = None if base is None else _difference(model, base, plan)
        return RowOrigins(model, plan.mapping, plan, None if note else base, note)
    if base is None:
        return None
    target = model.tokenizer.vocabulary
    num_rows = max(target.num_ids, int(model.text_config.get("vocab_size") or 0))
    base_rows = int(base.text_config.get("vocab_size") or base.tokenizer.vocabulary.num_ids)
    return RowOrigins(
        model, match(base.tokenizer.vocabulary, target, num_rows=num_rows, base_rows=base_rows), None, base
    )


def _difference(model: ModelFolder, base: ModelFolder, plan: TransferPlan) -> str | None:
    """Return why the plan's ids are not those of `base`, or None if they are."""
    record: Mapping[str, Any] = next(iter(inputs_in(model.folder)), {})
    # The manifest has a hash of the tokenizer. If an earlier version wrote none, the copied tokens decide.
    answer = _has_the_tokenizer(record, base.folder)
    if answer is None:
        answer = _copied_tokens_agree(plan, model, base)
    if answer:
        return None
    made_from = f"from {record['name']}, " if isinstance(record.get("name"), str) else ""
    return f"{model.name} was made {made_from}not from {base.name}: its old ids are those of another tokenizer"


def _has_the_tokenizer(record: Mapping[str, Any], folder: Path) -> bool | None:
    """Return whether a folder has the tokenizer that a manifest describes, or None if the manifest does not tell."""
    files, file = record.get("files"), folder / "tokenizer.json"
    expected = files.get(file.name) if isinstance(files, Mapping) else None
    if expected:
        return file.is_file() and file_hashes([file])[file.name] == expected
    return is_described_by(record, folder)


def _copied_tokens_agree(plan: TransferPlan, model: ModelFolder, base: ModelFolder) -> bool:
    """Return whether each copied token has the same bytes as the token of `base` with the id of its source row."""
    ours, theirs = model.tokenizer.vocabulary.by_id, base.tokenizer.vocabulary.by_id
    pairs = [(ours.get(i), theirs.get(int(plan.mapping.sources[i]))) for i in plan.mapping.ids(Reason.COPIED).tolist()]
    return all(new is not None and old is not None and new.bytes == old.bytes for new, old in pairs)
