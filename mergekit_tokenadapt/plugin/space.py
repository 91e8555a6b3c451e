"""Check memory and disk space for the output before anything is computed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import psutil

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.inputs import InputModel

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one number of each dtype."""
OTHER_BYTES = 1
"""Least number of bytes of a number that is not floating-point."""


def check_memory(model: InputModel, num_rows: int) -> None:
    """Check that the largest new vocabulary tensor fits into memory.

    Args:
        model: an input model.
        num_rows: number of rows of the output.

    Raises:
        TokenAdaptError: the tensor needs more memory than is available.
    """
    sizes = {name: _bytes(model, name, num_rows) for name in model.tables}
    largest = max(sizes, key=lambda name: (sizes[name], name))
    available = psutil.virtual_memory().available
    if sizes[largest] > available:
        raise TokenAdaptError(
            f"{num_rows:,} rows of {largest} need {_readable(sizes[largest])} of memory, and {_readable(available)} "
            "are available: ask for fewer rows"
        )


def check_disk(model: InputModel, num_rows: int, out: Path, dtype: str | None) -> None:
    """Check that the disk has space for the output.

    Args:
        model: the input model that has the same tensors as the output.
        num_rows: number of rows of the output.
        out: the folder to write.
        dtype: dtype of the output, or None for the model's.

    Raises:
        TokenAdaptError: the weights need more than the free space.
    """
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    needed = sum(_bytes(model, name, num_rows, dtype) for name in model.shapes)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise TokenAdaptError(
            f"the output needs {_readable(needed)} on the disk, and {_readable(free)} are free in {place}"
        )


def _bytes(model: InputModel, name: str, num_rows: int, dtype: str | None = None) -> int:
    """Return the size of a tensor of the output in bytes."""
    table, stored = model.tables.get(name), model.dtypes[name]
    old = model.shapes[name]
    numbers = math.prod(old) if table is None else num_rows * math.prod((*old[: table.axis], *old[table.axis + 1 :]))
    chosen = (dtype or "").removeprefix("torch.")
    return numbers * BYTES.get(chosen if chosen and stored in BYTES else stored, OTHER_BYTES)


def _readable(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
