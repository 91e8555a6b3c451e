"""Repeat a merge that was killed halfway, when `mergekit-multi` runs again.

`mergekit-multi` skips a merge whose folder has a config.json and weights. mergekit writes these first, and our files
are the last step of a merge. If the manifest is missing, ids in the configs and the tokenizer may still be the old
ones.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import yaml

from mergekit_tokenadapt.output import MANIFEST

LOG = logging.getLogger(__name__)

SCRIPT = "mergekit.scripts.multimerge"
"""Module of the command `mergekit-multi`."""


def finish_half_finished_merges() -> None:
    """Replace the task of `mergekit-multi`, if that script is running, so that it repeats half-finished merges."""
    for module in (sys.modules.get(SCRIPT), sys.modules.get("__main__")):
        stock: Any = getattr(module, "MergeModelTask", None)
        if stock is not None and not hasattr(stock, "is_half_finished"):
            module.MergeModelTask = _make_again(stock)  # type: ignore[union-attr]


def _make_again(stock: Any) -> Any:
    """Return a subclass of mergekit's task that repeats half-finished merges."""

    class MergeModelTask(stock):  # type: ignore[misc]
        def is_half_finished(self) -> bool:
            tokenizer = yaml.safe_load(self.config_yaml).get("tokenizer")
            adapts = isinstance(tokenizer, dict) and tokenizer.get("adapt") is not None
            out = Path(self.out_path)
            return adapts and (out / "config.json").exists() and not (out / MANIFEST).exists()

        def execute(self, **merges: Any) -> Any:
            if self.lazy and self.is_half_finished():
                LOG.warning("%s has no %s: it was not finished, and is made again", self.out_path, MANIFEST)
                return self.model_copy(update={"lazy": False}).execute(**merges)
            return super().execute(**merges)

    return MergeModelTask
