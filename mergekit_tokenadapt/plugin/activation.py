"""Install our recipe block and our planner in mergekit."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Optional

import mergekit.config
import mergekit.merge
import mergekit.plan
from pydantic import BeforeValidator

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output.side_files import PROCESSOR_FILES
from mergekit_tokenadapt.plugin.inputs import references_of
from mergekit_tokenadapt.plugin.multimerge import finish_half_finished_merges
from mergekit_tokenadapt.tokenizer.files import TOKENIZER_FILES

SEAMS = (
    (mergekit.config, "MergeConfiguration"),
    (mergekit.config, "TokenizerConfig"),
    (mergekit.merge, "MergePlanner"),
    (mergekit.merge, "_copy_tagalong_files"),
    (mergekit.plan, "PermutedVocabulary"),
    (mergekit.plan, "BuildTokenizer"),
)
"""Names in mergekit that the plugin replaces or subclasses."""


def is_active() -> bool:
    """Return whether mergekit in this process understands the ``adapt`` block."""
    return getattr(mergekit.merge.MergePlanner, "understands_adapt", False)


def activate_once() -> None:
    """Do the work of `mergekit_tokenadapt.activate`."""
    finish_half_finished_merges()  # in every call, because the script may have been imported since the last one
    if is_active():
        return
    _check_seams()
    from mergekit_tokenadapt.plugin.planner import AdaptingPlanner
    from mergekit_tokenadapt.plugin.recipe import AdaptingTokenizerConfig

    # A subclass of MergeConfiguration would not do: mergekit's commands refer to the class itself.
    configuration = mergekit.config.MergeConfiguration
    field = configuration.model_fields["tokenizer"]
    field.annotation = Optional[Annotated[AdaptingTokenizerConfig, BeforeValidator(_as_dict)]]  # noqa: UP045
    configuration.__annotations__["tokenizer"] = field.annotation
    configuration.model_rebuild(force=True)
    configuration.referenced_models = _in_order(configuration.referenced_models)
    mergekit.merge.MergePlanner = AdaptingPlanner
    mergekit.merge._copy_tagalong_files = _without_ours(mergekit.merge._copy_tagalong_files)


def _in_order(stock: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Wrap mergekit's list of a recipe's models so that it has their order.

    mergekit makes it of a set. Without a `base_model`, it takes config.json from the first of the list, and that would
    be another model in each process.
    """

    def referenced_models(configuration: Any) -> list[Any]:
        found = stock(configuration)
        if getattr(configuration.tokenizer, "adapt", None) is None:
            return found
        order = {reference: n for n, reference in enumerate(references_of(configuration))}
        return sorted(found, key=lambda reference: (order.get(reference, len(order)), str(reference)))

    return referenced_models


def _without_ours(stock: Callable[..., None]) -> Callable[..., None]:
    """Wrap mergekit's last step, which copies some files of a base model, so that it does not overwrite our files.

    From Qwen2-VL, for example, it would copy vocab.json. That file belongs to the old tokenizer.
    """

    def copy(merge_config: Any, out_path: str, files: list[str], options: Any) -> None:
        if getattr(merge_config.tokenizer, "adapt", None) is not None:
            kept = {*TOKENIZER_FILES, *PROCESSOR_FILES}
            files = [name for name in files if name not in kept]
        stock(merge_config, out_path, files, options)

    return copy


def _as_dict(value: Any) -> Any:
    """Turn mergekit's own `TokenizerConfig` into a mapping, so that a program may still pass such an object."""
    is_stock = type(value) is mergekit.config.TokenizerConfig
    return value.model_dump(exclude_unset=True) if is_stock else value


def _check_seams() -> None:
    """Check that mergekit has all names that the plugin replaces.

    Raises:
        TokenAdaptError: a name is missing.
    """
    installed = version("mergekit")
    missing = [name for module, name in SEAMS if not hasattr(module, name)]
    if missing or not hasattr(mergekit.plan.MergePlanner, "plan_tensor"):
        raise TokenAdaptError(
            f"mergekit-tokenadapt works with mergekit 0.1.5 and later 0.1.x, not with the installed {installed} "
            f"(which lacks {', '.join(missing) or 'MergePlanner.plan_tensor'})"
        )
