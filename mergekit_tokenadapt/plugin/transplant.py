"""Write the recipe that gives one model one tokenizer, and run recipes so that their output is complete or absent."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mergekit.graph
import mergekit.merge
import mergekit.multigpu_executor
import pydantic
import yaml
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io import ShardedTensorIndex
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.tensor_files import check_names
from mergekit_tokenadapt.plugin import activate
from mergekit_tokenadapt.plugin.inputs import read_by
from mergekit_tokenadapt.plugin.misplaced import check_recipe
from mergekit_tokenadapt.plugin.reporting import Listener, reporting_to
from mergekit_tokenadapt.storage.input_files import check_plain, local_path
from mergekit_tokenadapt.storage.staging import check_output, staged_folder
from mergekit_tokenadapt.storage.whole_files import check_adapter, check_model_folder
from mergekit_tokenadapt.terminal.plain_words import describe_errors
from mergekit_tokenadapt.terminal.progress import plain_bars

LOG = logging.getLogger(__name__)


def make_recipe(
    base: str,
    target: str,
    adapt: Mapping[str, Any],
    *,
    dtype: str | None = None,
    pad_to_multiple_of: int | None = None,
) -> dict[str, Any]:
    """Return the mergekit recipe that gives the model `base` the tokenizer `target`.

    Args:
        base: folder or hub id of a model; with a LoRA adapter as ``BASE+ADAPTER``.
        target: folder, `tokenizer.json` or hub id of a tokenizer.
        adapt: the ``adapt`` block.
        dtype: dtype of the output, or None for the base's.
        pad_to_multiple_of: round the number of rows up to a multiple of this.
    """
    tokenizer: dict[str, Any] = {"source": _as_reference(target)}
    if pad_to_multiple_of is not None:
        tokenizer["pad_to_multiple_of"] = pad_to_multiple_of
    recipe: dict[str, Any] = {"merge_method": "passthrough", "models": [{"model": _as_reference(base)}]}
    if dtype:
        recipe["dtype"] = dtype
    return recipe | {"tokenizer": tokenizer | {"adapt": dict(adapt)}}


def run_recipe(
    recipe: Mapping[str, Any],
    out: str,
    options: MergeOptions,
    *,
    force: bool = False,
    finish: Callable[[Path], None] | None = None,
    listener: Listener | None = None,
) -> Path:
    """Run a recipe with mergekit in a temporary folder, and rename that folder to `out` when it is complete.

    Args:
        recipe: the recipe.
        out: the folder to write.
        options: options of mergekit.
        force: replace `out` where it exists.
        finish: is called with the folder before it is renamed. If it raises an exception, `out` stays as it was.
        listener: is called with the report of changes (`output.change_report`), once `out` is there. With None, no
            report is made.

    Returns:
        The absolute path of `out`.

    Raises:
        TokenAdaptError: `out` may not be written (see `check_output`), or the recipe or its input is wrong.
    """
    activate()
    reports: list[Mapping[str, Any]] = []
    configuration = _read(recipe)
    inputs, texts = read_by(configuration)
    destination = check_output(out, force=force, inputs=inputs, texts=texts)
    # mergekit caches the folders that it has opened. They may have changed since an earlier run in this process.
    LoaderCache().loaders.clear()
    for reference in configuration.referenced_models():
        _check_model(reference, options)
    # mergekit writes the folder's name into the model card, so the temporary folder has the final name.
    with staged_folder(out, force=force) as staged:
        source = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        try:
            with (
                _merging_adapters(configuration, options, staged.parent) as options,
                reporting_to(None if listener is None else reports.append),
                plain_bars(mergekit.graph, mergekit.merge, mergekit.multigpu_executor),
            ):
                run_merge(configuration, str(staged), options, config_source=source)
        except (TokenAdaptError, OSError):
            raise
        except Exception as error:  # mergekit raises exceptions of many types for users' mistakes
            LOG.debug("mergekit failed", exc_info=error)
            reason = (
                first_line(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first_line(error)}"
            )
            raise TokenAdaptError(f"mergekit could not run the recipe: {reason} (-vv shows where)") from error
        if finish is not None:
            finish(staged)
    # After the rename: a report that cannot be printed, into a pipe that nobody reads for one, costs no model.
    if listener is not None:
        for report in reports:
            listener(report)
    return destination


def _read(recipe: Mapping[str, Any]) -> MergeConfiguration:
    """Read a recipe with mergekit's class, after the checks that are missing where pydantic loads no plugins."""
    check_recipe(recipe)
    try:
        return MergeConfiguration.model_validate(dict(recipe))
    except pydantic.ValidationError as error:
        raise TokenAdaptError(f"the recipe is wrong: {describe_errors(error)}") from error


@contextmanager
def _merging_adapters(configuration: MergeConfiguration, options: MergeOptions, near: Path) -> Iterator[MergeOptions]:
    """Give mergekit a temporary folder for merged LoRA adapters if the options name none."""
    merged = [reference for reference in configuration.referenced_models() if reference.lora is not None]
    if not merged or options.lora_merge_cache:
        yield options
        return
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=near) as folder:
        try:
            yield options.model_copy(update={"lora_merge_cache": folder})
        finally:
            for reference in merged:  # mergekit would keep the files open after the folder is gone
                LoaderCache().loaders.pop(reference, None)


def _as_reference(name: str) -> str | dict[str, Any]:
    """Write a model's name for a recipe.

    mergekit takes what follows a ``+`` as an adapter, and what follows an ``@`` as a revision, even within a path.
    """
    parts = [name] if local_path(name).exists() else name.split("+")
    if len(parts) > 2 or not any(map(_would_be_cut, parts)):
        return "+".join(map(_as_path, parts))
    return {
        key: {"path": _as_path(part)} if _would_be_cut(part) else part
        for key, part in zip(("model", "lora"), parts, strict=False)
    }


def _would_be_cut(name: str) -> bool:
    return ("+" in name or "@" in name) and local_path(name).exists()


def _as_path(name: str) -> str:
    """Write a local folder so that it cannot be taken for a hub id."""
    name = os.path.expanduser(name)
    is_local = os.path.exists(name) and not os.path.isabs(name) and not name.startswith(".")
    return os.path.join(".", name) if is_local else name


def _check_model(reference: ModelReference, options: MergeOptions) -> None:
    """Check that a model exists and its files can be read. mergekit itself would fail with a long traceback.

    Raises:
        TokenAdaptError: there is no model, or one of its files is unsafe, incomplete or unreadable.
    """
    for part in (reference.model, reference.lora):
        if part is not None and Path(part.path).is_dir():
            check_plain(Path(part.path))
    check_model_folder(reference.model.path)
    if reference.lora is not None:
        check_adapter(reference.lora.path)
    try:
        reference.config(trust_remote_code=options.trust_remote_code)
        index = ShardedTensorIndex.from_disk(reference.local_path(options.transformers_cache, ignore_lora=True))
        check_names(index.tensor_paths.values())
    except TokenAdaptError:
        raise
    except Exception as error:  # configs, indexes and pickles fail with exceptions of many types
        kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
        where = (
            "" if Path(reference.model.path).exists() else "it is not a folder, and could not be fetched as a hub id: "
        )
        raise TokenAdaptError(f"no model found at {str(reference)!r}: {where}{kind}{first_line(error)}") from error
