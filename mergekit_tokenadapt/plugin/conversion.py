"""Map names of stored tensors to names in the model, as mergekit's `architecture.conversion` does.

Published mixtures of experts store one tensor for each expert. transformers 5, and therefore mergekit, has one tensor
for all experts of a layer. mergekit converts them when it loads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mergekit.architecture.conversion import can_convert_checkpoint_keys
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming


def sources_of(model_type: str | None, stored: Iterable[str], wanted: Iterable[str]) -> dict[str, set[str]]:
    """Return wanted tensor -> the stored tensors that mergekit converts into it, for those that it can convert.

    Args:
        model_type: ``model_type`` of the config.
        stored: names of the tensors in the checkpoint.
        wanted: names of tensors that are not in the checkpoint.
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
    """Return all names that a stored tensor can have in the model, alone or as a part of another tensor."""
    reached = {name}
    for transform in transforms:
        for key in sorted(reached):
            renamed, pattern = transform.rename_source_key(key)
            if pattern is not None:
                reached |= {renamed} if isinstance(transform, WeightRenaming) else _expanded(renamed, transform)
    return reached


def _expanded(renamed: str, transform: Any) -> set[str]:
    """Return the names of all tensors that one conversion makes together."""
    first, *_ = transform.target_patterns
    before, found, after = renamed.partition(first)
    return {before + target + after for target in transform.target_patterns} if found else {renamed}
