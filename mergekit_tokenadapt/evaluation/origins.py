"""Which rows of a model are new, which are copied, and from where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.evaluation.model_folder import ModelFolder
from mergekit_tokenadapt.evaluation.tensor_math import row_norms
from mergekit_tokenadapt.matching import Reason, VocabularyMap, match
from mergekit_tokenadapt.output import PLAN
from mergekit_tokenadapt.plan import TransferPlan


@dataclass(frozen=True)
class RowOrigins:
    """The rows of `model`, seen from the base model's vocabulary."""

    model: ModelFolder
    mapping: VocabularyMap
    plan: TransferPlan | None
    """Where the output folder holds one."""
    base: ModelFolder | None

    @property
    def new_ids(self) -> np.ndarray:
        """Ids of tokens that the base vocabulary does not have, ascending, int64.

        Where there is a plan, without those that it makes mean rows: these are like no token's row.
        """
        ids = self.mapping.ids(Reason.NEW)
        return ids if self.plan is None else np.setdiff1d(ids, self.plan.mean_ids.numpy())

    @property
    def copied_ids(self) -> np.ndarray:
        """Ids whose row is an old one, ascending, int64."""
        return np.flatnonzero(self.mapping.sources >= 0) if self.plan is None else self.plan.copied_ids.numpy()

    def old_norms(self, name: str) -> Tensor:
        """Lengths of the old rows of a vocabulary matrix, float32: the base's, or else the copied ones."""
        if self.base is not None and name in self.base.tensors:
            matrix = self.base.rows(name)
            ids = [t.id for t in self.base.tokenizer.vocabulary if t.id < len(matrix)]
            return row_norms(matrix)[ids]
        return row_norms(self.model.rows(name))[torch.from_numpy(self.copied_ids)]


def find_origins(model: ModelFolder, base: ModelFolder | None) -> RowOrigins | None:
    """From the plan in the folder, or else by matching with the base's vocabulary; None with neither.

    Raises:
        TokenAdaptError: the plan cannot be read.
    """
    file = model.folder / PLAN
    if file.is_file():
        plan = TransferPlan.load(file)
        return RowOrigins(model, plan.mapping, plan, base)
    if base is None:
        return None
    target = model.tokenizer.vocabulary
    num_rows = max(target.num_ids, int(model.text_config.get("vocab_size") or 0))
    base_rows = int(base.text_config.get("vocab_size") or base.tokenizer.vocabulary.num_ids)
    return RowOrigins(
        model, match(base.tokenizer.vocabulary, target, num_rows=num_rows, base_rows=base_rows), None, base
    )
