"""Ray datasets as sources of text. Ray is an optional package, so functions import it when they need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.extensions.extras import importing, require
from mergekit_tokenadapt.texts.sources import split_settings

if TYPE_CHECKING:
    import ray

PREFIX = "ray:"
JSON = (".json", ".jsonl", ".jsonl.gz")
"""File endings that are read as jsonl. All other files are read as parquet."""


def open_dataset(source: str, option: str) -> tuple[ray.data.Dataset, str]:
    """Open the parquet or jsonl files that ``ray:PATH`` names. Returns the dataset and its column of texts.

    ``,field=NAME`` after the path names the column; the default is ``text``. The dataset belongs to the cluster that
    `ray.init` finds (``RAY_ADDRESS``), or to a local one.

    Args:
        source: ``ray:PATH`` or ``ray:PATH,field=NAME``.
        option: the option that gave the source. Error messages start with it.

    Raises:
        TokenAdaptError: Ray is not installed or cannot be imported, or it cannot read the files.
    """
    require("ray", extra="ray", wanted_by=f"{option} {source}")
    with importing("ray", extra="ray", wanted_by=f"{option} {source}"):
        import ray.data

    place, settings = split_settings(source)
    path = place.removeprefix(PREFIX)
    read = ray.data.read_json if path.endswith(JSON) else ray.data.read_parquet
    try:
        return read(path), settings.get("field", "text")
    except Exception as error:  # file systems and formats raise exceptions of their own
        raise TokenAdaptError(f"{option} {source}: Ray cannot read {path!r}: {first_line(error)}") from error


def text_column(dataset: ray.data.Dataset, field: str, name: str) -> ray.data.Dataset:
    """Return a dataset with the column of texts alone.

    Its blocks come in the dataset's order, and not in the order in which they become ready.

    Raises:
        TokenAdaptError: the dataset has no such column.
    """
    columns = dataset.columns() or []
    if field not in columns:
        raise TokenAdaptError(f"{name} has no column {field!r}; it has {', '.join(columns) or 'none'}")
    dataset.context.execution_options.preserve_order = True
    return dataset.select_columns([field])
