"""Decide which folders this tool may replace: empty ones, and those that hold a manifest that this tool wrote."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

MANIFESTS = ("tokenadapt.json", "supertokens.json")
"""Names of manifests. Every folder that a command writes holds one, and its key `format` begins with `TOOL`."""
TOOL = "mergekit-tokenadapt"


def is_ours(folder: Path) -> bool:
    """Return whether this tool wrote the folder, that is, whether it holds one of our manifests as a plain file."""
    return any(_is_manifest(folder / name) for name in MANIFESTS)


def is_empty(folder: Path) -> bool:
    """Return whether the folder has no entries."""
    return next(folder.iterdir(), None) is None


def mark(folder: Path) -> None:
    """Write a minimal manifest into a folder that has none. It names only this tool and its version."""
    if not is_ours(folder):
        content = {"format": f"{TOOL} folder 1", "versions": {TOOL: version(TOOL)}}
        (folder / MANIFESTS[0]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_manifest(file: Path) -> bool:
    # A link could point to another folder's manifest, and would then allow a foreign folder to be replaced.
    if file.is_symlink() or not file.is_file():
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith(f"{TOOL} ")
