"""One model, one tokenizer: the recipe for it, and running a recipe so that its output is all or nothing."""

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
from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.models.folder import check_names
from mergekit_tokenadapt.plugin import activate
from mergekit_tokenadapt.plugin.misplaced import check_recipe
from mergekit_tokenadapt.plugin.recipe import AdaptConfig
from mergekit_tokenadapt.plugin.reporting import Listener, reporting_to
from mergekit_tokenadapt.storage.input_files import check_plain
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
    """The mergekit recipe that gives the model `base` the tokenizer `target`.

    Args:
        base: folder or hub id of a model; with a LoRA adapter as ``BASE+ADAPTER``.
        target: folder, `tokenizer.json` or hub id of a tokenizer.
        adapt: the ``adapt`` block.
        dtype: of the output; None for that of the base.
        pad_to_multiple_of: round the number of rows up to a multiple of this.
    """
    tokenizer: dict[str, Any] = {"source": _as_reference(target)}
    if pad_to_multiple_of:
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
    """Run a recipe with mergekit into a temporary folder, and rename that to `out` when it is complete.

    `finish` gets the folder before it is renamed; what it raises leaves `out` as it was. `listener` gets the report
    of what was done (`output.change_report`), unless the options are quiet.

    Raises:
        TokenAdaptError: `out` may not be written (see `check_output`), or the recipe or its input is wrong.
    """
    activate()
    configuration = _read(recipe)
    inputs, texts = _read_by(configuration)
    destination = check_output(out, force=force, inputs=inputs, texts=texts)
    # What mergekit knows of the folders of an earlier run in this process may not be true any more.
    LoaderCache().loaders.clear()
    for reference in configuration.referenced_models():
        _check_model(reference, options)
    # mergekit names the model after its folder: the staged one has the name of the final one.
    with staged_folder(out, force=force) as staged:
        source = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        try:
            with (
                _merging_adapters(configuration, options, staged.parent) as options,
                reporting_to(listener),
                plain_bars(mergekit.graph, mergekit.merge, mergekit.multigpu_executor),
            ):
                run_merge(configuration, str(staged), options, config_source=source)
        except (TokenAdaptError, OSError):
            raise
        except Exception as error:  # mergekit raises all kinds for users' mistakes
            LOG.debug("mergekit failed", exc_info=error)
            reason = (
                first_line(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first_line(error)}"
            )
            raise TokenAdaptError(f"mergekit could not run the recipe: {reason} (-vv shows where)") from error
        if finish is not None:
            finish(staged)
    return destination


def _read(recipe: Mapping[str, Any]) -> MergeConfiguration:
    """mergekit's own reading of a recipe, with the checks that a program without pydantic's plugins lacks."""
    check_recipe(recipe)
    try:
        return MergeConfiguration.model_validate(dict(recipe))
    except pydantic.ValidationError as error:
        raise TokenAdaptError(f"the recipe is wrong: {describe_errors(error)}") from error


@contextmanager
def _merging_adapters(configuration: MergeConfiguration, options: MergeOptions, near: Path) -> Iterator[MergeOptions]:
    """Give mergekit a folder to merge adapters into, for as long as it needs it, where the options name none."""
    merged = [reference for reference in configuration.referenced_models() if reference.lora is not None]
    if not merged or options.lora_merge_cache:
        yield options
        return
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=near) as folder:
        try:
            yield options.model_copy(update={"lora_merge_cache": folder})
        finally:
            for reference in merged:  # mergekit keeps what it has opened, for the whole process
                LoaderCache().loaders.pop(reference, None)


def _read_by(configuration: MergeConfiguration) -> tuple[list[str], list[str]]:
    """What a recipe reads: models, tokenizers and files; and texts. Words that stand for no path are left out."""
    inputs = []
    for reference in configuration.referenced_models():
        inputs += [str(part.path) for part in (reference.model, reference.lora) if part is not None]
    source = getattr(configuration.tokenizer, "source", None)
    if isinstance(source, ModelReference):
        inputs.append(str(source.model.path))
    adapt: AdaptConfig | None = getattr(configuration.tokenizer, "adapt", None)
    if adapt is None:
        return inputs, []
    inputs += [adapt.chat_template] if adapt.chat_template not in ("target", "base") else []
    inputs += [adapt.auxiliary] if adapt.auxiliary not in entry_points.names(entry_points.AUXILIARY) else []
    return inputs, [adapt.calibration_text] if adapt.calibration_text not in (None, "default") else []


def _as_reference(name: str) -> str | dict[str, Any]:
    """How a recipe names a model: mergekit takes what follows a ``+`` for an adapter, in a path too."""
    if "+" in name and os.path.exists(os.path.expanduser(name)):
        return {"model": {"path": _as_path(name)}}
    return "+".join(map(_as_path, name.split("+")))


def _as_path(name: str) -> str:
    """A local folder written so that nothing takes it for a hub id."""
    if name.startswith("~"):
        name = os.path.expanduser(name)
    is_local = os.path.exists(name) and not os.path.isabs(name) and not name.startswith(".")
    return os.path.join(".", name) if is_local else name


def _check_model(reference: ModelReference, options: MergeOptions) -> None:
    """Fail in one line where there is no model, before mergekit does it in many."""
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
    except Exception as error:  # whatever can be wrong with a config, an index or a pickle
        kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
        where = (
            "" if Path(reference.model.path).exists() else "it is not a folder, and could not be fetched as a hub id: "
        )
        raise TokenAdaptError(f"no model found at {str(reference)!r}: {where}{kind}{first_line(error)}") from error
