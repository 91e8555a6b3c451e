"""Permissions of files that libraries write for the owner only, as safetensors does (mode 0600)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def like_new_files(paths: Iterable[Path]) -> None:
    """Give files (links and folders aside) the permissions that the umask gives to new ones."""
    umask = os.umask(0)
    os.umask(umask)
    for path in paths:
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):  # a file system without permissions
                path.chmod(0o666 & ~umask)
