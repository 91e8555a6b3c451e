"""Checks of folders that come from someone else: no pipes or devices, and no symbolic links out of the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError

SUFFIXES = frozenset(
    (
        ".json",
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".model",
        ".spm",
        ".txt",
        ".jinja",
        ".tiktoken",
        ".gguf",
        ".py",
        ".yml",
    )
)
"""Suffixes of the files that mergekit, transformers or this package open in a model's or a tokenizer's folder."""
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def local_path(name: str | Path) -> Path:
    """Return the path that a user's name means: ``~`` is the home folder, as in a shell."""
    return Path(os.path.expanduser(name))


def check_plain(folder: Path) -> None:
    """Refuse a model's or a tokenizer's folder that holds a pipe, a socket or a device: reading it would never end.

    Raises:
        TokenAdaptError: such an entry has one of the `SUFFIXES`, so some library would open it.
    """
    for file in sorted(folder.iterdir()):
        try:
            kind = KINDS.get(stat.S_IFMT(file.stat().st_mode))
        except OSError:  # a broken link; whoever needs the file reports it as missing
            continue
        if kind is not None and file.suffix in SUFFIXES:
            raise TokenAdaptError(f"{file} is {kind}, not a file: put a file in its place, or take it away")


def check_own(folder: Path, files: Iterable[Path]) -> None:
    """Refuse to copy files that are symbolic links to places outside their folder.

    In a downloaded folder, such a link may point to any file that the user can read, and the user may publish the
    output. Links of the hub's cache into the ``blobs`` folder of the same repository are allowed.

    Args:
        folder: the folder that the files lie in.
        files: the files to be copied. Files that do not exist are ignored.

    Raises:
        TokenAdaptError: a link points out of the folder.
    """
    root = folder.resolve()
    own = {root} | {place.parents[1] / "blobs" for place in (root, *root.parents) if place.parent.name == "snapshots"}
    for file in files:
        real = file.resolve()
        if file.exists() and not own & set(real.parents):
            raise TokenAdaptError(
                f"{file} is a link to {real}, which is outside its folder and would be copied into the output: "
                "put a copy of the file in its place, if it belongs there"
            )
