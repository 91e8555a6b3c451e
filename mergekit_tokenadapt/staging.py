"""Folders that appear when they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError


def check_absent(out: str, *, force: bool) -> Path:
    """The folder to be made.

    Raises:
        TokenAdaptError: it exists and `force` is not given.
    """
    destination = Path(out)
    if destination.exists() and not force:
        raise TokenAdaptError(f"{destination} exists already; give another name, or --force to replace it")
    return destination


@contextmanager
def staged_folder(out: str, *, force: bool = False) -> Iterator[Path]:
    """A path beside `out`, with the same name, to be made into a folder; it becomes `out` if nothing is raised.

    A process that is killed leaves the hidden folder ``.NAME-...`` beside `out`, which may be deleted. If that
    was between the two renames that replace a folder, the old one is in there, as ``replaced``.

    Raises:
        TokenAdaptError: `out` exists and `force` is not given.
    """
    destination = check_absent(out, force=force)
    destination.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        staged = stage / destination.name
        yield staged
        _replace(destination, staged, stage / "replaced")
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(destination: Path, staged: Path, replaced: Path) -> None:
    """Put `staged` in the place of `destination`, or leave that as it is."""
    if not destination.exists():
        os.replace(staged, destination)
        return
    os.replace(destination, replaced)
    try:
        os.replace(staged, destination)
    except OSError:
        os.replace(replaced, destination)
        raise
