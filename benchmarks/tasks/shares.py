"""How much of the base model's score a row keeps, with resamples of the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.gaps import counts_of
from benchmarks.tasks.cases import BASE, TASKS, key_of

RESAMPLES = 2000
GOLD = "bits_per_byte"
"""The metric of tasks with gold answers. Of few documents, accuracy says nothing, and bits per byte say much."""
Runs = Mapping[str, Any]
"""Cells of the results by their keys."""


def measured(runs: Runs) -> dict[str, Any]:
    """The cells without those of models that could not be made."""
    return {key: cell for key, cell in runs.items() if "failed" not in cell}


def by_cells(runs: Runs) -> list[tuple[str, int]]:
    """Pairs and numbers of documents, those with the most cells first."""
    counts = Counter((key.split(" | ")[0], int(key.split(" | ")[3])) for key in runs)
    return sorted(counts, key=lambda group: (counts[group], group), reverse=True)


def values(cell: Mapping[str, Any], metric: str) -> np.ndarray:
    """A metric as measured, then for each of S resamples of the documents [1 + S].

    All rows of a task have the same documents, and get the same resamples.
    """
    above_N, below_N = (np.array(cell["metrics"][metric][part]) for part in ("above", "below"))
    counts = counts_of(len(above_N), np.random.default_rng(0), RESAMPLES)
    return np.asarray((counts @ above_N) / (counts @ below_N))


def shares_kept(task: str, cell: Mapping[str, Any], base: Mapping[str, Any]) -> np.ndarray:
    """The share of the base model's score [1 + S]: score / base for accuracy, base / score for bits per byte."""
    metric = TASKS[task].metric
    row, of_base = values(cell, metric), values(base, metric)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample in which the base model is never right
        return np.asarray(of_base / row if metric == GOLD else row / of_base)


def mean_shares(runs: Runs, pair: str, row: str, tasks: Iterable[str], documents: int) -> np.ndarray:
    """The mean of `shares_kept` over tasks [1 + S]."""
    keys = [(task, *(key_of(pair, name, task, documents) for name in (row, BASE))) for task in tasks]
    return np.asarray(np.mean([shares_kept(task, runs[ours], runs[base]) for task, ours, base in keys], axis=0))


def tasks_and_rows(
    runs: Runs, pair: str, rows: Sequence[str], documents: int, metric: str = GOLD
) -> tuple[list[str], list[str]]:
    """The tasks with this metric, and the rows that have all of them.

    Not every row has every task. Of the sets of tasks that some row has, the one with the most cells is taken.
    """
    measured = {
        row: [
            task
            for task, about in TASKS.items()
            if about.metric == metric and all(key_of(pair, name, task, documents) in runs for name in (row, BASE))
        ]
        for row in rows
    }
    groups = [
        (tasks, [row for row, others in measured.items() if set(tasks) <= set(others)])
        for tasks in measured.values()
        if tasks
    ]
    return max(groups, key=lambda group: (len(group[0]) * len(group[1]), len(group[0])), default=([], []))
