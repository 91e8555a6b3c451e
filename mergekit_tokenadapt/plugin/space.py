"""Whether there is room for the output, found out before anything is made."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import psutil

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.inputs import InputModel

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
OTHER_BYTES = 1
"""Of a number that is no floating-point one, at least."""


def check_memory(model: InputModel, num_rows: int) -> None:
    """Refuse rows that do not fit into memory.

    Args:
        model: whose rows they are.
        num_rows: rows of the output.

    Raises:
        TokenAdaptError: the largest new table needs more memory than is available.
    """
    sizes = {name: _bytes(model, name, num_rows) for name in model.tables}
    largest = max(sizes, key=lambda name: (sizes[name], name))
    available = psutil.virtual_memory().available
    if sizes[largest] > available:
        raise TokenAdaptError(
            f"{num_rows:,} rows of {largest} need {_say(sizes[largest])} of memory, and {_say(available)} are "
            "available: give fewer rows"
        )


def check_disk(model: InputModel, num_rows: int, out: Path, dtype: str | None) -> None:
    """Refuse an output that the disk has no room for.

    Args:
        model: which the output is like.
        num_rows: rows of the output.
        out: the folder to be made.
        dtype: of the output; None for that of the model.

    Raises:
        TokenAdaptError: less is free than the weights need.
    """
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    needed = sum(_bytes(model, name, num_rows, dtype) for name in model.shapes)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise TokenAdaptError(f"the output needs {_say(needed)} on the disk, and {_say(free)} are free in {place}")


def _bytes(model: InputModel, name: str, num_rows: int, dtype: str | None = None) -> int:
    """Size of a tensor of the output."""
    table, stored = model.tables.get(name), model.dtypes[name]
    old = model.shapes[name]
    numbers = math.prod(old) if table is None else num_rows * math.prod((*old[: table.axis], *old[table.axis + 1 :]))
    chosen = (dtype or "").removeprefix("torch.")
    return numbers * BYTES.get(chosen if chosen and stored in BYTES else stored, OTHER_BYTES)


def _say(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
