"""Keep the results of long runs in shards on disk, so that an interrupted run continues where it stopped."""

from __future__ import annotations

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

from mergekit_tokenadapt.storage.tensor_writing import sealed, unsealed

LOG = logging.getLogger(__name__)

CACHE_VARIABLE = "MERGEKIT_TOKENADAPT_CACHE"


def cache_folder() -> Path:
    """``$MERGEKIT_TOKENADAPT_CACHE``, else ``mergekit-tokenadapt`` in the user's cache folder."""
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergekit-tokenadapt"


@contextmanager
def shard_folder(name: str) -> Iterator[Path | None]:
    """A folder of one run's own, in the cache; it goes when the run is complete, and stays when it was stopped.

    None where the cache cannot be written to: the run is then made in one go.

    Args:
        name: changes with everything that a shard depends on. A second run of the same name waits for the first.
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
            LOG.warning("what is made is not kept, should this run be stopped: %s", error)
        yield folder if usable else None
        if usable:
            shutil.rmtree(folder)


def resumed(folder: Path | None, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the folder holds under this name, or what `make` gives, which is then put there.

    A file that was damaged is made again: its content would go into a model unseen.
    """
    if folder is None:
        return make()
    file = _file(folder, name)
    if file.is_file():
        if (kept := read_sealed(file)) is not None:
            return kept
        LOG.warning("%s, which an earlier run had left, is damaged, and is made again", file)
    made = make()
    temporary = file.with_suffix(".tmp")
    try:
        save_file(sealed(made), str(temporary))
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        LOG.warning("what was made is not kept, should this run be stopped: %s", error)
    return made


def read_sealed(file: Path) -> dict[str, Tensor] | None:
    """The tensors of a file that was written with their hash; None where it was damaged."""
    try:
        return unsealed(load_file(str(file)))
    except (OSError, SafetensorError):
        return None


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
