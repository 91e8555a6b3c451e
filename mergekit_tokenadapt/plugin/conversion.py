"""Names on disk and names in the model: what mergekit's `architecture.conversion` makes of a checkpoint.

Published mixtures of experts hold a tensor for each expert; transformers 5, and with it mergekit, holds all
experts of a layer in one tensor. mergekit converts when it loads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mergekit.architecture.conversion import can_convert_checkpoint_keys
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming


def sources_of(model_type: str | None, stored: Iterable[str], wanted: Iterable[str]) -> dict[str, set[str]]:
    """The stored tensors that mergekit makes each wanted one of, for those that it can make.

    Args:
        model_type: of the config.
        stored: names in the checkpoint.
        wanted: names that the checkpoint does not hold.
    """
    names, found = set(stored), {name: set[str]() for name in wanted}
    if not found:
        return {}
    transforms = get_checkpoint_conversion_mapping(model_type) or []
    for name in names:
        for target in _targets(transforms, name) & found.keys():
            found[target].add(name)
    return {
        target: sources
        for target, sources in found.items()
        if sources and can_convert_checkpoint_keys(model_type, sources, target)
    }


def _targets(transforms: list[Any], name: str) -> set[str]:
    """All names that a stored tensor may become, itself or as a part."""
    reached = {name}
    for transform in transforms:
        for key in sorted(reached):
            renamed, pattern = transform.rename_source_key(key)
            if pattern is not None:
                reached |= {renamed} if isinstance(transform, WeightRenaming) else _expanded(renamed, transform)
    return reached


def _expanded(renamed: str, transform: Any) -> set[str]:
    """The names of all tensors that one conversion makes together."""
    first, *_ = transform.target_patterns
    before, found, after = renamed.partition(first)
    return {before + target + after for target in transform.target_patterns} if found else {renamed}
