"""Write and read the folder of the command `align`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from mergekit_tokenadapt.output import file_hashes, write_json
from mergekit_tokenadapt.storage.staging import check_output, staged_folder
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.two_models.align import align_texts, write_spans
from mergekit_tokenadapt.two_models.nearest_tokens import NearestTokens, nearest_tokens

SPANS, NEAREST, REPORT = "spans.parquet", "nearest_tokens.safetensors", "align.json"
"""Names of the files in the folder."""
DIRECTIONS = ("teacher_to_student", "student_to_teacher")
"""Prefixes of the arrays of nearest tokens."""


def write_aligned(
    text: TextSet,
    teacher: TokenizerFiles,
    student: TokenizerFiles,
    out: str,
    *,
    nearest: bool,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write spans, nearest tokens and a report into the folder `out`. Returns the report.

    Args:
        text: the documents to align.
        teacher: the teacher's tokenizer.
        student: the student's tokenizer.
        out: the folder to write.
        nearest: also write the nearest tokens of both vocabularies.
        force: replace `out` where it exists.
        quiet: show no progress bar.

    Raises:
        TokenAdaptError: `out` exists, a package of the extra `align` is missing, or a tokenizer makes no token of a
            document.
    """
    check_output(out, force=force, inputs=[teacher.name, student.name], texts=[text.source])
    names = {"teacher": teacher.name, "student": student.name}
    report: dict[str, Any] = {
        **names,
        "tokenizer_sha256": {
            role: file_hashes([files.folder / "tokenizer.json"])["tokenizer.json"]
            for role, files in (("teacher", teacher), ("student", student))
        },
        "text": text.describe(),
    }
    with staged_folder(out, force=force) as staged:
        staged.mkdir()
        aligned = align_texts(text.documents, teacher, student)
        totals = write_spans(staged / SPANS, text.documents, aligned, names)
        report["spans"] = {**totals, "bytes_per_span": totals["bytes"] / totals["spans"]}
        if nearest:
            report["nearest_tokens"] = _write_nearest(staged / NEAREST, teacher, student, quiet)
        write_json(staged / REPORT, report)
    return report


def _write_nearest(file: Path, teacher: TokenizerFiles, student: TokenizerFiles, quiet: bool) -> dict[str, Any]:
    """Write the nearest tokens in both directions. Returns their number by kind, and the mean distance."""
    arrays, report = {}, {}
    for direction, source, target in zip(DIRECTIONS, (teacher, student), (student, teacher), strict=True):
        found = nearest_tokens(source.vocabulary, target.vocabulary, quiet=quiet)
        arrays[f"{direction}.ids"], arrays[f"{direction}.distances"] = found.ids, found.distances
        known = found.distances[found.distances >= 0]
        report[direction] = {
            "same": int((known == 0).sum()),
            "nearest": int((known > 0).sum()),
            "mean_distance_of_nearest": float(known[known > 0].mean()) if (known > 0).any() else None,
            "none": len(source.vocabulary) - len(known),
        }
    save_tensors({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
    return report


def read_nearest(file: Path) -> dict[str, NearestTokens]:
    """Read the nearest tokens that `align` has written, by direction: ``teacher_to_student`` and
    ``student_to_teacher``.
    """
    arrays: dict[str, np.ndarray] = load_file(str(file))
    return {d: NearestTokens(arrays[f"{d}.ids"], arrays[f"{d}.distances"]) for d in DIRECTIONS}
