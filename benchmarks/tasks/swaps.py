"""The models that are scored: each one is made by a command in a process of its own, watched, and kept."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.common import models
from benchmarks.common.results import Results
from benchmarks.common.timing import watched
from benchmarks.healing import cells as healing
from benchmarks.healing.page import key_of as healing_key
from benchmarks.quality.swaps import with_places
from benchmarks.tasks.cases import BASE, HAVE_WEIGHTS, HEALED, NEEDS_DONOR, PAIRS, ROWS

MERGEKIT = (sys.executable, "-m", "mergekit.scripts.run_yaml")
TOKENSURGEON = (sys.executable, "-m", "mergekit.scripts.tokensurgeon")
MEASURED = "benchmark.json"
"""The file in a kept model with the figures of its command."""


class Swap(NamedTuple):
    """A model, and what it cost."""

    folder: Path
    seconds: float
    """Wall time of the command, or of the healing."""
    memory: int | None
    """Bytes that were resident at most, parts of mapped files among them; None: not measured here."""


def is_possible(pair: str, row: str) -> bool:
    """Whether there is a model, or all that is needed to make one."""
    if row in HEALED:
        return healing.kept(pair, *HEALED[row]).is_dir()
    return row not in NEEDS_DONOR or PAIRS[pair][1] in HAVE_WEIGHTS


def swapped(pair: str, row: str) -> Swap:
    """The model of a row. A swap is made where it has not been kept, with a cold cache.

    Raises:
        CommandFailedError: the command fails.
    """
    base, target = (models.fetched(name) for name in PAIRS[pair])
    if row == BASE:
        return Swap(base, 0.0, None)
    if row in HEALED:
        run = Results("healing").read()["runs"][healing_key(pair, *HEALED[row])]
        return Swap(healing.kept(pair, *HEALED[row]), round(run["seconds"]["wall"], 1), None)
    folder = models.KEPT / f"tasks-{pair}-{row}".replace(",", "").replace(" ", "-")
    if not folder.is_dir():
        models.KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
            out = Path(temporary, "out")
            seen = watched(
                _command(base, target, out, ROWS[row]), {"MERGEKIT_TOKENADAPT_CACHE": str(Path(temporary, "cache"))}
            )
            figures = {"seconds": round(seen["seconds"], 1), "memory": seen["memory"]["VmHWM"]}
            (out / MEASURED).write_text(json.dumps(figures))
            out.rename(folder)
    return Swap(folder, **json.loads((folder / MEASURED).read_text()))


def _command(base: Path, target: Path, out: Path, row: dict[str, Any]) -> list[str]:
    """The command of a user: stock mergekit with a recipe, or mergekit-tokensurgeon."""
    if "tokensurgeon" in row:
        return [*TOKENSURGEON, str(base), str(target), str(out), *row["tokensurgeon"]]
    from mergekit_tokenadapt.plugin.transplant import make_recipe

    recipe = out.with_suffix(".yml")
    recipe.write_text(yaml.safe_dump(make_recipe(str(base), str(target), with_places(row))))
    return [*MERGEKIT, str(recipe), str(out)]
