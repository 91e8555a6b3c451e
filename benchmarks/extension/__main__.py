"""What does a vocabulary extension save, and what does it cost? Tokens and bits per byte.

    python -m benchmarks.extension                # everything; resumes where it stopped
    python -m benchmarks.extension --tokenizers   # numbers of tokens only: a minute
    python -m benchmarks.extension --page-only

SmolLM2 gets German tokens of another tokenizer by `adapt.extend`. A German text chooses them: that of `common.texts`.
Tokens are counted, and models scored, on other text. Writes results/extension.json and docs/extension-measured.md. The
page also has the base model and whole swaps, whose scores on the same documents are those of results/quality.json.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from benchmarks.common.results import Cell, Results, page_only, setting, write_page
from benchmarks.extension.cells import EXTENSIONS, MODELS, SOURCES, count_base, count_extended, count_source, scored
from benchmarks.extension.page import page

RESULTS = Results("extension")
QUALITY = Results("quality")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")


@click.command()
@click.option("--tokenizers", "tokenizers_only", is_flag=True, help="Count tokens only, and score no model.")
@page_only
def main(tokenizers_only: bool, page_only: bool) -> None:
    """Measure, and write results/extension.json and docs/extension-measured.md."""
    if not page_only:
        RESULTS.measure_missing(tokenizer_cells(), under="tokenizers", about=about)
        if not tokenizers_only:
            RESULTS.measure_missing(model_cells(), about=about)
    write_page("extension-measured.md", page(RESULTS.for_page(), QUALITY.for_page()))


def tokenizer_cells() -> list[Cell]:
    """The base's tokenizer, the sources' own, and every extension."""
    extensions = [(e.key, partial(count_extended, e)) for e in EXTENSIONS]
    return [("base", count_base), *((source, partial(count_source, source)) for source in SOURCES), *extensions]


def model_cells() -> list[Cell]:
    """Every extension with every method that it is measured with."""
    return [(f"{e.key} | {method}", partial(scored, e, method)) for e, method in MODELS]


def about() -> dict[str, Any]:
    """What the file says of the newest run."""
    return {"setting": setting(*PACKAGES)}


if __name__ == "__main__":
    main()
