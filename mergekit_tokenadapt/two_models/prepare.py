"""Give the student the teacher's vocabulary, so that distillation for models with one vocabulary can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.output import PLAN, write_json
from mergekit_tokenadapt.output.change_report import vocabulary_report
from mergekit_tokenadapt.plugin.merge_options import MergeOptions
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan
from mergekit_tokenadapt.two_models.onto import put_onto

REPORT = "distillation.json"
"""File with the report in the output folder."""
TOKEN_MAP = "token_map.safetensors"
"""File with the token map in the output folder."""
ORIGINS = ("copied", "special", "composed", "mean", "padding")
"""Meaning of the values of ``origin`` in the token map: the value is the position in this tuple."""


def prepare_student(
    teacher: str,
    student: str,
    out: str,
    adapt: Mapping[str, Any],
    *,
    dtype: str | None = None,
    options: MergeOptions | None = None,
    force: bool = False,
    heal: Callable[[Path], None] | None = None,
) -> Path:
    """Write `out`: the student with the teacher's exact ids and number of rows, a token map and a report.

    Args:
        teacher: folder or hub id of the teacher.
        student: folder or hub id of the student.
        out: the folder to write.
        adapt: the ``adapt`` block of a recipe.
        dtype: dtype of the output, or None for the student's.
        options: options of mergekit.
        force: replace `out` where it exists.
        heal: see `put_onto`.

    Raises:
        TokenAdaptError: see `put_onto`.
    """
    before = load_tokenizer(student)

    def finish(teacher_folder: ModelFolder, made: ModelFolder) -> None:
        report = {"teacher": teacher, "student": student, **vocabulary_report(teacher_folder, made, before)}
        write_json(made.folder / REPORT, report)
        plan = load_plan(made.folder / PLAN)
        save_tensors(token_map(plan, made), made.folder / TOKEN_MAP, {"origins": ",".join(ORIGINS)})

    return put_onto(student, teacher, out, adapt, dtype=dtype, options=options, force=force, finish=finish, heal=heal)


def token_map(plan: TransferPlan, made: ModelFolder) -> dict[str, torch.Tensor]:
    """Return as tensors from which old rows each of the teacher's ids got its row.

    Returns:
        ``origin``, int8 [rows]: position in `ORIGINS`. ``student_id``, int64 [rows]: the old id whose row was copied,
        or -1. ``indptr``, int64 [rows + 1], ``pieces``, int64, and ``weights``, float32: the old ids of composed rows
        and their weights, as compressed sparse rows. A method with a regression predicts composed rows from the rows of
        these pieces.
    """
    origin = torch.full((plan.num_rows,), ORIGINS.index("composed"), dtype=torch.int8)
    reasons = torch.from_numpy(plan.mapping.reasons)
    origin[reasons == Reason.COPIED] = ORIGINS.index("copied")
    origin[reasons == Reason.SPECIAL] = ORIGINS.index("special")
    origin[plan.mean_ids] = ORIGINS.index("mean")
    has_token = torch.zeros(plan.num_rows, dtype=torch.bool)
    has_token[torch.from_numpy(made.tokenizer.vocabulary.ids())] = True
    origin[~has_token] = ORIGINS.index("padding")
    student_id = torch.full((plan.num_rows,), -1, dtype=torch.int64)
    student_id[plan.copied_ids] = torch.from_numpy(plan.mapping.sources)[plan.copied_ids]
    order = plan.composed_ids.argsort()
    composition = plan.composition.select(order)
    counts = torch.zeros(plan.num_rows, dtype=torch.int64)
    counts[plan.composed_ids[order]] = composition.counts
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return {
        "origin": origin,
        "student_id": student_id,
        "indptr": indptr,
        "pieces": composition.ids,
        "weights": composition.weights,
    }
