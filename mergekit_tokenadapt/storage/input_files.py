"""What a folder of somebody else's may hold: pipes that would be waited for, and links that lead out of it."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError

SUFFIXES = frozenset(
    (".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".jinja", ".tiktoken", ".gguf", ".py", ".yml")
)
"""Of files that mergekit, transformers or we open in a model's or a tokenizer's folder."""
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_plain(folder: Path) -> None:
    """Refuse a model's or a tokenizer's folder with a pipe, a socket or a device in it: reading would never end.

    Raises:
        TokenAdaptError: there is one under a name that is read.
    """
    for file in sorted(folder.iterdir()):
        try:
            kind = KINDS.get(stat.S_IFMT(file.stat().st_mode))
        except OSError:  # a link to nothing is no file, and is missed where it is needed
            continue
        if kind is not None and file.suffix in SUFFIXES:
            raise TokenAdaptError(f"{file} is {kind}, not a file: put a file in its place, or take it away")


def check_own(folder: Path, files: Iterable[Path]) -> None:
    """Refuse files that would be copied into an output, and are links to something that is not the folder's own.

    Of a folder that came from elsewhere, such a link may lead to anything that this user can read, and the output may
    be published. The hub's cache links into the blobs of the same repository: these are its own.

    Args:
        folder: whose files they are.
        files: those that are to be copied; ones that are not there are left aside.

    Raises:
        TokenAdaptError: a link leads out of the folder.
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
