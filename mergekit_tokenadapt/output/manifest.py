"""The manifest ``tokenadapt.json``: the inputs of an output folder, the options, and the results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mergekit_tokenadapt.correction import CorrectionReport
from mergekit_tokenadapt.models.identity import HASHES, vocabulary_hashes
from mergekit_tokenadapt.storage.hashing import add_contents
from mergekit_tokenadapt.texts.sources import files_below, split_settings
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, read_json
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import FitReport

MANIFEST = "tokenadapt.json"
"""File name of the manifest."""
UNFINISHED = ".tokenadapt-unfinished"
"""Name of an empty file in an output folder whose run has not finished."""
PLAN = "tokenadapt.plan"
"""File name of the first input model's plan."""
VERSIONED = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "numpy", "scikit-learn")
"""Packages whose versions the manifest records."""


def manifest_of(
    target: TokenizerFiles, num_rows: int, adapt: Mapping[str, Any], inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the content of a manifest. Without dates and output paths, the same inputs give the same manifest.

    Args:
        target: the target tokenizer.
        num_rows: rows of the new vocabulary matrices.
        adapt: the recipe's ``adapt`` block.
        inputs: the `input_record` of each input model.
    """
    return {
        "format": "mergekit-tokenadapt manifest 1",
        "versions": {name: package_version(name) for name in VERSIONED},
        "target": {"name": target.name, "files": file_hashes(target.files())},
        "rows": num_rows,
        "adapt": dict(adapt),
        "inputs": inputs,
    }


def input_record(
    name: str,
    folder: Path,
    plan: TransferPlan,
    correction: CorrectionReport | None,
    fits: Mapping[str, FitReport],
) -> dict[str, Any]:
    """Return the manifest's record of one input model: hashes of its files, and how its new rows were made.

    Args:
        name: the name in the recipe.
        folder: the folder of the model.
        plan: the plan of its new rows.
        correction: the result of the calibration text; None if there was none.
        fits: tensor name -> quality of the plan's regression; empty if the method has no regression.
    """
    drawn = {"rows_drawn": len(plan.drawn)} if plan.drawn is not None else {}
    from_glossary = {"rows_from_glossary": len(plan.glossary_ids)} if len(plan.glossary_ids) else {}
    return {
        "name": name,
        "files": file_hashes(sorted(folder.glob("*.json"))),
        # Sizes only: hashing all weights would mean reading the whole model once more.
        "weights": {f.name: f.stat().st_size for f in sorted(_weight_files(folder))},
        HASHES: vocabulary_hashes(folder),
        "method": plan.method,
        "options": dict(plan.options),
        "rows_by_reason": plan.counts(),
        **drawn,
        **from_glossary,
        "fits": {tensor: asdict(report) for tensor, report in sorted(fits.items())},
        # Only the fit on a calibration text depends on the number of threads, in its last digits.
        "correction": {**asdict(correction), "threads": torch.get_num_threads()} if correction is not None else None,
    }


def package_version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def inputs_in(folder: Path) -> list[Mapping[str, Any]]:
    """Return what the manifest in a folder says of the input models; empty where there is none, or it says nothing."""
    inputs: Any = read_json(folder / MANIFEST).get("inputs")
    return [one for one in inputs if isinstance(one, Mapping)] if isinstance(inputs, list) else []


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Return file name -> SHA-256 in hexadecimal."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def contents_hash(place: str) -> str:
    """Return the SHA-256, in hexadecimal, of a file; or of the files below a folder, with their relative paths."""
    path, _ = split_settings(place)
    root, digest = Path(path), hashlib.sha256()
    for file in files_below(root) if root.is_dir() else [root]:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() if root.is_dir() else b"")
        add_contents(digest, file)
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
