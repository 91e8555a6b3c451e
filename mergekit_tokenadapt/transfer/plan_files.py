"""Plans in files: safetensors content with a JSON header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.transfer.drawn_rows import Distribution, DrawnRows
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.median_norms import MedianNorms
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import RowRegression

FORMAT = "mergekit-tokenadapt plan 1"


def save_plan(plan: TransferPlan, file: Path) -> None:
    """Write a plan. The same plan gives the same bytes.

    A regression on a donor's rows or on hidden states is left out, and so are given rows, because these are as large as
    matrices. The plan can then be explained after it is read, but not applied.

    Raises:
        TokenAdaptError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "method": plan.method,
        "options": dict(plan.options),
        "texts": {str(row): text for row, text in sorted(plan.mapping.texts.items())},
        "is_identity": plan.mapping.is_identity,
        "needs_donor": plan.needs_donor
        or plan.given is not None
        or (plan.regression is not None and not plan.regression.can_be_stored),
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
    if len(plan.glossary_ids):
        tensors["glossary_ids"] = plan.glossary_ids
    if plan.output_composition is not None:
        output = plan.output_composition
        tensors |= {"output.indptr": output.indptr, "output.ids": output.ids, "output.weights": output.weights}
    if plan.input_norms is not None:
        norms = plan.input_norms
        tensors |= {"norms.groups": norms.groups, "norms.indptr": norms.indptr, "norms.members": norms.members}
    if plan.drawn is not None:
        drawn = plan.drawn
        header["drawn"] = {"distribution": drawn.distribution.value, "seed": drawn.seed, "scale": drawn.scale}
        tensors |= {"drawn.new_ids": drawn.new_ids, "drawn.base_ids": drawn.base_ids}
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
        saved = _part(tensors, "regression.")
        regression = RowRegression.from_tensors(saved) if saved else None
        output, norms = _part(tensors, "output."), _part(tensors, "norms.")
        plan = TransferPlan(
            mapping,
            tensors["composed_ids"],
            composition,
            header["method"],
            header["options"],
            regression,
            tensors["unreachable_ids"],
            header["needs_donor"],
            SparseRows(output["indptr"], output["ids"], output["weights"]) if output else None,
            MedianNorms(norms["groups"], norms["indptr"], norms["members"]) if norms else None,
            _drawn_rows(header["drawn"], _part(tensors, "drawn.")) if "drawn" in header else None,
            tensors.get("glossary_ids", torch.zeros(0, dtype=torch.int64)),
        )
        _check(plan)
        return plan
    except (OSError, KeyError, ValueError, AttributeError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, TokenAdaptError):
            raise
        raise TokenAdaptError(f"{file} is not a transfer plan: {error}") from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _drawn_rows(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DrawnRows:
    """Return drawn rows as a file describes them.

    Raises:
        ValueError: a value is none.
        KeyError: a value is missing.
    """
    seed, scale = header["seed"], header["scale"]
    if type(seed) is not int or not isinstance(scale, float) or not 0 <= scale < math.inf:
        raise ValueError("seed or scale of drawn rows is none")
    return DrawnRows(tensors["new_ids"], tensors["base_ids"], Distribution(header["distribution"]), seed, scale)


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
    if plan.output_composition is not None:
        plan.output_composition.check()
    if plan.input_norms is not None:
        plan.input_norms.check()
    parallel = (plan.output_composition, None if plan.input_norms is None else plan.input_norms.groups)
    if any(part is not None and len(part) != len(plan.composed_ids) for part in parallel):
        raise ValueError("output compositions or norms do not fit the rows that they make")
    own = torch.cat([plan.composed_ids, plan.unreachable_ids])  # unreachable rows are drawn first, and then replaced
    if plan.drawn is not None and not torch.isin(plan.drawn.new_ids, own).all():
        raise ValueError("drawn rows are not among the composed ones")
    if plan.drawn is not None and (plan.drawn.base_ids.dtype != torch.int64 or (plan.drawn.base_ids < 0).any()):
        raise ValueError("rows are drawn from unknown old rows")
    calibrated = [] if plan.regression is None else [plan.regression.new_ids]
    calibrated += [] if plan.drawn is None else [plan.drawn.new_ids]
    for ids in (plan.composed_ids, plan.unreachable_ids, plan.glossary_ids, *calibrated):
        if ids.dtype != torch.int64 or ids.dim() != 1 or ((ids < 0) | (ids >= rows[0])).any():
            raise ValueError("there are ids beyond the rows")
