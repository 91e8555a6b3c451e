"""Long runs keep what they have made in shards on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergekit_tokenadapt.auxiliary.cached import cache_folder


@contextmanager
def shard_folder(name: str) -> Iterator[Path]:
    """A folder of one run's own, in the cache; it goes when the run is complete, and stays when it was stopped.

    Args:
        name: changes with everything that a shard depends on. A second run of the same name waits for the first.
    """
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def resumed(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the file holds, or what `make` gives, which is then put there."""
    try:
        return load_file(str(file))
    except (OSError, SafetensorError):
        made = make()
    temporary = file.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, str(temporary))
    os.replace(temporary, file)
    return made
