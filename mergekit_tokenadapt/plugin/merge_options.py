"""mergekit's options as the other rooms use them. Output shards are small, so that writing them needs little memory."""

from __future__ import annotations

from typing import Any

from mergekit.options import MergeOptions, PrettyPrintHelp, add_merge_options

__all__ = ["OUT_SHARD_SIZE", "MergeOptions", "PrettyPrintHelp", "add_merge_options", "merge_options"]

OUT_SHARD_SIZE = 1_000_000_000
"""Bytes. mergekit holds an output shard until it is full, and 5 GB is full late; older versions of safetensors
also copy it to write it. A tensor that is larger than this gets a shard of its own. (mergekit's help speaks of
parameters; what it counts are bytes.)"""


def merge_options(**given: Any) -> MergeOptions:
    """Options for runs that no user gives mergekit's options to."""
    return MergeOptions(**{"out_shard_size": OUT_SHARD_SIZE, **given})
