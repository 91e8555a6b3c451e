"""How far does a little training bring a model after the swap?

    python -m benchmarks.healing --steps 60    # resumes where it stopped; a cell takes minutes to an hour
    python -m benchmarks.healing --page-only

A cell is one swap and one healing with a fixed number of steps. The text to heal with is that of `common.texts.mixed`:
English, German, Chinese, code and sums. Held-out passages are of the same sources; the built-in texts are of others.
Writes results/healing.json and docs/healing-measured.md.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import models, texts
from benchmarks.common.results import Cell, Results, in_words, page_only, setting, write_page
from benchmarks.common.timing import one_thread

RESULTS = Results("healing")
PACKAGES = ("mergekit-tokenadapt", "torch", "transformers", "peft", "tokenizers")
BASE, TARGET = "smollm2", "deepseek"
KINDS = {"prose": "English", "code": "code", "arithmetic": "sums", "de": "German", "zh": "Chinese"}
"""Built-in texts, by the kinds of the text to heal with."""
BYTES = 1500
"""Of each built-in text that is scored."""
STARTS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "calibrated": {"method": "calibrated"},
}
"""Rows that healing starts from."""
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "double-rates": {"rate": 6e-4, "row_rate": 1e-3},
    "rows": {"train": "rows"},
    "all": {"train": "all", "rate": 5e-5},
}
"""Options of `heal`, beside the number of steps."""
DEFAULT_CELLS = ("calibrated default",)
HOURS = 12
"""Time limit of a cell; the number of steps ends it long before."""


@click.command()
@click.option("--steps", default=60, show_default=True, help="Training steps of each cell.")
@click.option("--passages", default=4, show_default=True, help="Passages in a step.")
@click.option(
    "--cell", "cells", multiple=True, default=DEFAULT_CELLS, show_default=True, help="START RECIPE. Repeatable."
)
@page_only
def main(steps: int, passages: int, cells: tuple[str, ...], page_only: bool) -> None:
    """Measure, and write results/healing.json and docs/healing-measured.md."""
    one_thread()
    if not page_only:
        RESULTS.measure_missing(
            [(name, partial(_unhealed, name)) for name in ("base", *STARTS)], under="before healing"
        )
        RESULTS.measure_missing(
            [_cell(name, steps, passages) for name in cells],
            about=lambda: {"setting": setting(*PACKAGES)},
        )
    write_page("healing-measured.md", page(RESULTS.for_page()))


def _cell(name: str, steps: int, passages: int) -> Cell:
    start, recipe = name.split()
    return f"{name}, {steps} steps of {passages}", partial(_healed, start, recipe, steps, passages)


def _unhealed(name: str) -> dict[str, float]:
    if name == "base":
        return _bits(models.fetched(BASE))
    return _bits(_swapped(name))


def _swapped(start: str) -> Path:
    """The swapped model. It keeps its place: a healing that was killed goes on from its checkpoint."""
    folder = models.KEPT / f"healing-{start}"
    if not folder.is_dir():
        models.transplanted(models.fetched(BASE), models.fetched(TARGET), folder, STARTS[start])
    return folder


def _healed(start: str, recipe: str, steps: int, passages: int) -> dict[str, Any]:
    from mergekit_tokenadapt.healing.options import HealOptions
    from mergekit_tokenadapt.healing.run import heal
    from mergekit_tokenadapt.texts import read_text

    options = HealOptions(
        minutes=60 * HOURS,
        steps=steps,
        passages_per_step=passages,
        looks=2,
        held_out_bytes=3000,
        probe_bytes=200,
        **RECIPES[recipe],
    )
    sets = [read_text(f"{file.stem}={file}") for file in sorted(texts.mixed().iterdir())]
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
        began, cpu = time.perf_counter(), time.process_time()
        healed = heal(
            str(_swapped(start)),
            str(Path(temporary, "out")),
            sets,
            options,
            base=str(models.fetched(BASE)),
            quiet=True,
            say=lambda line: click.echo(line, err=True),
        )
        seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        bits = _bits(healed.folder)
        shutil.rmtree(healed.folder)
    record = healed.record
    kept = ("steps", "tokens", "passages", "trained_rows", "held_out", "probes", "worse", "curve", "is_better")
    return {"bits": bits, "seconds": seconds, **{key: record[key] for key in kept}}


def _bits(folder: Path) -> dict[str, float]:
    """Bits per byte of the built-in texts of other sources."""
    from mergekit_tokenadapt.healing.judging import bits_per_byte
    from mergekit_tokenadapt.texts import builtin_text

    sets = [builtin_text(name).limited(BYTES) for name in KINDS]
    return bits_per_byte(models.in_float32(folder), models.tokenizer_files(folder), sets)


def page(results: dict[str, Any]) -> str:
    """The page."""
    before = results["before healing"]
    lines = [
        "# Healing, measured",
        "",
        "Generated by `python -m benchmarks.healing`. [healing.md](healing.md) says what `heal` does.",
        "",
        f"The base is {models.title(BASE)}, the tokenizer that of {models.title(TARGET)}. The text to heal with is "
        "`benchmarks/common/texts.py`: 240 KB each of English, German and Chinese (translations of the Debian "
        "Reference) and of code (Python's library), and 29 KB of sums. "
        f"{in_words(results['setting']['packages'])}; one thread; seed 0; one run each.",
        "",
        "## Text of other sources",
        "",
        "Bits per byte of built-in texts, about 1,500 bytes of each kind. None of them is in the text that was "
        "trained on. Gap closed is (mean - model) / (mean - base), averaged over the five kinds.",
        "",
        "| model | " + " | ".join(KINDS.values()) + " | gap closed |",
        "|---" * (len(KINDS) + 2) + "|",
    ]
    rows = {**before, **{key: run["bits"] for key, run in results["runs"].items()}}
    lines += [_row(name, bits, before) for name, bits in rows.items()]
    lines += ["", "## Held-out passages of the same sources", ""]
    for key, run in results["runs"].items():
        figures = run["held_out"]
        lines += [
            f"{key}: {run['passages']} passages, {run['tokens']:,} tokens, {run['trained_rows']:,} rows trained, "
            f"{run['seconds']['cpu'] / 60:.0f} minutes of one core in all.",
            "",
            "| bits per byte | " + " | ".join(KINDS[name] for name in figures["base"]) + " |",
            "|---" * (len(figures["base"]) + 1) + "|",
        ]
        lines += [
            f"| {when} | " + " | ".join(f"{figures[when][name]:.3f}" for name in figures["base"]) + " |"
            for when in ("base", "before", "after")
        ]
        worse = ", ".join(run["worse"]) or "none"
        lines += ["", f"Texts that got worse by more than 0.5%, the 18 built-in ones included: {worse}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, bits: dict[str, float], before: dict[str, dict[str, float]]) -> str:
    mean, base = before["mean"], before["base"]
    closed = sum((mean[k] - bits[k]) / (mean[k] - base[k]) for k in KINDS) / len(KINDS)
    return f"| {name} | " + " | ".join(f"{bits[kind]:.3f}" for kind in KINDS) + f" | {closed:.0%} |"


if __name__ == "__main__":
    main()
