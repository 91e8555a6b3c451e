"""Keep partial results of a long run in shards on disk, so that an interrupted run can resume."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.storage.tensor_writing import sealed, unsealed

LOG = logging.getLogger(__name__)

CACHE_VARIABLE = "MERGEKIT_TOKENADAPT_CACHE"
"""Environment variable that names the cache folder."""
NOT_KEPT = "partial results cannot be kept, so a stopped run will start again: %s"


def cache_folder() -> Path:
    """Return ``$MERGEKIT_TOKENADAPT_CACHE`` if it is set, else ``mergekit-tokenadapt`` in the user's cache folder."""
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergekit-tokenadapt"


@contextmanager
def shard_folder(name: str) -> Iterator[Path | None]:
    """Provide a folder in the cache for the shards of one run.

    The folder is removed when the ``with`` block ends normally. An exception leaves it in place for the next run.

    Args:
        name: name of the folder. It must change with everything that a shard depends on. A second run with the same
            name waits until the first has ended.

    Yields:
        The folder; None where the cache cannot be written. The run then keeps no shards.
    """
    folder = cache_folder() / name
    with ExitStack() as locked:
        usable = True
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(f"{folder}.lock"))
            folder.mkdir(exist_ok=True)
        except OSError as error:
            usable = False
            LOG.warning(NOT_KEPT, error)
        yield folder if usable else None
        if usable:
            shutil.rmtree(folder)


def resumed(folder: Path | None, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read a shard if it exists, else compute it with `make` and store it.

    A damaged shard is computed again. Without the check of its hash, wrong numbers would get into a model unnoticed.

    Args:
        folder: from `shard_folder`; with None nothing is stored.
        name: name of the shard.
        make: computes the tensors.
    """
    if folder is None:
        return make()
    file = _file(folder, name)
    if file.is_file():
        if (kept := read_sealed(file)) is not None:
            return kept
        LOG.warning("%s is damaged; an earlier run left it. It is computed again", file)
    made = make()
    temporary = file.with_suffix(".tmp")
    try:
        save_file(sealed(made), str(temporary))
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        LOG.warning(NOT_KEPT, error)
    return made


def settled(folder: Path | None, name: str) -> int | None:
    """Return the number that an earlier run in this folder settled under this name; None if there is none.

    What an interrupted run had time for decides what it computes later. A run that resumes therefore takes the same
    number, whatever time it has.
    """
    try:
        number = json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) if folder is not None else None
    except (OSError, ValueError):
        return None
    return number if isinstance(number, int) else None


def settle(folder: Path | None, name: str, number: int) -> None:
    """Keep a number for a run that resumes; see `settled`. Nothing is kept without a folder."""
    if folder is None:
        return
    try:
        write_file(folder / f"{name}.json", json.dumps(number))
    except OSError as error:
        LOG.warning(NOT_KEPT, error)


def read_sealed(file: Path) -> dict[str, Tensor] | None:
    """Read the tensors of a file that `sealed` protects with a hash; return None if the file is damaged."""
    try:
        return unsealed(load_file(str(file)))
    except (OSError, SafetensorError):
        return None


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
