"""Which folders this tool may replace: those that it wrote itself, which hold a manifest, and empty ones."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

MANIFESTS = ("tokenadapt.json", "supertokens.json")
"""Every folder that a command writes holds one of these; its `format` begins with the tool's name."""
TOOL = "mergekit-tokenadapt"


def is_ours(folder: Path) -> bool:
    """Whether this tool wrote the folder: a manifest of its own lies in it, as a plain file."""
    return any(_is_manifest(folder / name) for name in MANIFESTS)


def is_empty(folder: Path) -> bool:
    """Whether nothing lies in the folder."""
    return next(folder.iterdir(), None) is None


def mark(folder: Path) -> None:
    """Put a manifest into a folder that has none: it says no more than who made the folder."""
    if not is_ours(folder):
        content = {"format": f"{TOOL} folder 1", "versions": {TOOL: version(TOOL)}}
        (folder / MANIFESTS[0]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_manifest(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith(f"{TOOL} ")
