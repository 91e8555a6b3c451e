"""Datasets of Ray as sources of text. Ray is imported where it is used: it is an optional package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.extensions.extras import importing, require
from mergekit_tokenadapt.texts.sources import split_settings

if TYPE_CHECKING:
    import ray

PREFIX = "ray:"
JSON = (".json", ".jsonl", ".jsonl.gz")


def open_dataset(source: str, option: str) -> tuple[ray.data.Dataset, str]:
    """The dataset that ``ray:PATH`` names, parquet or jsonl, and its column of texts (``,field=NAME``).

    The cluster is the one that `ray.init` finds (``RAY_ADDRESS``), else a local one.

    Raises:
        TokenAdaptError: Ray is not installed or does not work, or cannot read this; the message starts with `option`.
    """
    require("ray", extra="ray", wanted_by=f"{option} {source}")
    with importing("ray", extra="ray", wanted_by=f"{option} {source}"):
        import ray.data

    place, settings = split_settings(source)
    path = place.removeprefix(PREFIX)
    read = ray.data.read_json if path.endswith(JSON) else ray.data.read_parquet
    try:
        return read(path), settings.get("field", "text")
    except Exception as error:  # whatever file systems and formats raise
        raise TokenAdaptError(f"{option} {source}: Ray cannot read {path!r}: {first_line(error)}") from error


def text_column(dataset: ray.data.Dataset, field: str, name: str) -> ray.data.Dataset:
    """The column of texts alone, whose blocks come in the dataset's order whichever is ready first.

    Raises:
        TokenAdaptError: there is no such column.
    """
    columns = dataset.columns() or []
    if field not in columns:
        raise TokenAdaptError(f"{name} has no column {field!r}; it has {', '.join(columns) or 'none'}")
    dataset.context.execution_options.preserve_order = True
    return dataset.select_columns([field])
