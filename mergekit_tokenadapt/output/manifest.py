"""The manifest, ``tokenadapt.json``: what went into a folder and what was done."""

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
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.plan import TransferPlan

MANIFEST = "tokenadapt.json"
PLAN = "tokenadapt.plan"
VERSIONED = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "numpy", "scikit-learn")


def manifest_of(
    target: TokenizerFiles, num_rows: int, adapt: Mapping[str, Any], inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of a manifest; no dates or paths of outputs: same inputs, same manifest.

    `inputs` holds what `input_record` says of each input model.
    """
    return {
        "format": "mergekit-tokenadapt manifest 1",
        "versions": {name: package_version(name) for name in VERSIONED},
        "target": {"name": target.name, "files": file_hashes(target.files())},
        "rows": num_rows,
        "adapt": dict(adapt),
        "inputs": inputs,
    }


def input_record(name: str, folder: Path, plan: TransferPlan, correction: CorrectionReport | None) -> dict[str, Any]:
    """What the manifest says of one input model: its files, and how its rows were made."""
    return {
        "name": name,
        "files": file_hashes(sorted(folder.glob("*.json"))),
        "weights": {f.name: f.stat().st_size for f in sorted(_weight_files(folder))},
        HASHES: vocabulary_hashes(folder),
        "method": plan.method,
        "options": dict(plan.options),
        "rows_by_reason": plan.counts(),
        "fits": {tensor: asdict(report) for tensor, report in sorted(plan.reports.items())},
        # A fit on a text is the one thing that other numbers of threads make otherwise, in its last digits.
        "correction": {**asdict(correction), "threads": torch.get_num_threads()} if correction is not None else None,
    }


def package_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Name to SHA-256 of each file."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _weight_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
