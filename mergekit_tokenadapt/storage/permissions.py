"""Set usual permissions on files that libraries write for the owner only, as safetensors does (mode 0600)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def like_new_files(paths: Iterable[Path]) -> None:
    """Give files the permissions that the umask gives to new files. Links and folders stay as they are."""
    umask = os.umask(0)  # the only way to read the umask is to set it
    os.umask(umask)
    for path in paths:
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):  # some file systems have no permissions
                path.chmod(0o666 & ~umask)
