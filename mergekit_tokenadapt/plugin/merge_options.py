"""mergekit's options for the other folders of this package. Output shards are small, so that writing needs little
memory.
"""

from __future__ import annotations

from typing import Any

from mergekit.options import MergeOptions, PrettyPrintHelp, add_merge_options

__all__ = ["OUT_SHARD_SIZE", "MergeOptions", "PrettyPrintHelp", "add_merge_options", "merge_options"]

OUT_SHARD_SIZE = 1_000_000_000
"""Default size of an output shard in bytes.

mergekit keeps an output shard in memory until it is full, and its own default is 5 GB. Older versions of safetensors
also copy the shard to write it. A larger tensor gets a shard of its own. (mergekit's help says that this option counts
parameters, but it counts bytes.)
"""


def merge_options(**given: Any) -> MergeOptions:
    """Return options for a run whose user gives no options of mergekit. `given` overrides our defaults."""
    return MergeOptions(**{"out_shard_size": OUT_SHARD_SIZE, **given})
