"""Plans in files: safetensors content with a JSON header."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import RowRegression

FORMAT = "mergekit-tokenadapt plan 1"


def save_plan(plan: TransferPlan, file: Path) -> None:
    """Write a plan. The same plan gives the same bytes.

    A regression on a donor's rows is left out, because these are as large as the donor's matrices. The plan can then
    be explained after it is read, but not applied.

    Raises:
        TokenAdaptError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "method": plan.method,
        "options": dict(plan.options),
        "texts": {str(row): text for row, text in sorted(plan.mapping.texts.items())},
        "is_identity": plan.mapping.is_identity,
        "needs_donor": plan.needs_donor or (plan.regression is not None and not plan.regression.can_be_stored),
    }
    tensors = {
        "reasons": torch.from_numpy(plan.mapping.reasons),
        "sources": torch.from_numpy(plan.mapping.sources),
        "composed_ids": plan.composed_ids,
        "indptr": plan.composition.indptr,
        "ids": plan.composition.ids,
        "weights": plan.composition.weights,
        "unreachable_ids": plan.unreachable_ids,
    }
    if plan.regression is not None and plan.regression.can_be_stored:
        tensors |= {f"regression.{name}": tensor for name, tensor in plan.regression.tensors().items()}
    save_tensors(tensors, file, {"plan": json.dumps(header, sort_keys=True)})


def load_plan(file: Path) -> TransferPlan:
    """Read a plan that `save_plan` wrote.

    Raises:
        TokenAdaptError: the file is missing, or not a plan.
    """
    try:
        with safe_open(str(file), framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["plan"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise TokenAdaptError(f"{file} is a plan of another version: {header['format']!r}, not {FORMAT!r}")
        mapping = VocabularyMap(
            tensors["reasons"].numpy(),
            tensors["sources"].numpy(),
            {int(row): text for row, text in header["texts"].items()},
            header["is_identity"],
        )
        composition = SparseRows(tensors["indptr"], tensors["ids"], tensors["weights"])
        prefix = "regression."
        saved = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        regression = RowRegression.from_tensors(saved) if saved else None
        plan = TransferPlan(
            mapping,
            tensors["composed_ids"],
            composition,
            header["method"],
            header["options"],
            regression,
            tensors["unreachable_ids"],
            header["needs_donor"],
        )
        _check(plan)
        return plan
    except (OSError, KeyError, ValueError, AttributeError, TypeError, SafetensorError) as error:
        if isinstance(error, TokenAdaptError):
            raise
        raise TokenAdaptError(f"{file} is not a transfer plan: {error}") from error


def _check(plan: TransferPlan) -> None:
    """Refuse a file whose parts do not fit together now, and not while rows are made.

    Raises:
        ValueError: they do not.
    """
    reasons, sources = plan.mapping.reasons, plan.mapping.sources
    rows = reasons.shape
    if len(rows) != 1 or sources.shape != rows or reasons.dtype != np.int8 or sources.dtype != np.int64:
        raise ValueError("reasons and sources do not fit together")
    if not np.isin(reasons, list(Reason)).all() or (sources < -1).any():
        raise ValueError("there are unknown reasons or sources")
    plan.composition.check()
    if len(plan.composition) != len(plan.composed_ids):
        raise ValueError("compositions and the rows that they make do not fit together")
    calibrated = [] if plan.regression is None else [plan.regression.new_ids]
    for ids in (plan.composed_ids, plan.unreachable_ids, *calibrated):
        if ids.dtype != torch.int64 or ids.dim() != 1 or ((ids < 0) | (ids >= rows[0])).any():
            raise ValueError("there are ids beyond the rows")
