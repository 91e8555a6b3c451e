"""How far does a little training bring a model after the swap?

    python -m benchmarks.healing --minutes 15                              # resumes where it stopped
    python -m benchmarks.healing --minutes 60 --start "calibrated, untied"
    python -m benchmarks.healing --pair gemma-deepseek --steps 40          # the same on a busy machine
    python -m benchmarks.healing --page-only

A cell is one swap and one healing of so many minutes on one thread: the machine must have a core to spare. The text to
heal with is that of `common.texts.mixed`: English, German, Chinese, code and sums. Held-out passages are of the same
sources; the built-in texts are of others. causes.py measures where the loss lies. Writes results/healing.json,
docs/healing-measured.md and docs/healing-curve.svg and .png. The healed models stay in the folder of models: the
benchmark of tasks scores them.
"""

from __future__ import annotations

from functools import partial

import click

from benchmarks.common.results import Cell, Results, page_only, setting, write_page, write_picture
from benchmarks.common.timing import one_thread
from benchmarks.healing.causes import causes
from benchmarks.healing.cells import PAIRS, RECIPES, SHARES, STARTS, healed, interpolated, unhealed
from benchmarks.healing.page import curve, key_of, page

RESULTS = Results("healing")
PACKAGES = ("mergekit-tokenadapt", "torch", "transformers", "peft", "tokenizers")


@click.command()
@click.option("--minutes", default=15.0, show_default=True, help="Time of each healing.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each healing, instead of a time.")
@click.option("--pair", type=click.Choice(list(PAIRS)), default="smollm2-deepseek", show_default=True, help="Models.")
@click.option(
    "--start",
    "starts",
    multiple=True,
    type=click.Choice(list(STARTS)),
    default=["calibrated"],
    show_default=True,
    help="Rows to start from. Repeatable.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    type=click.Choice(list(RECIPES)),
    default=["default"],
    show_default=True,
    help="Options of heal. Repeatable.",
)
@click.option("--between/--no-between", default=True, help="Also score weights between those before and after.")
@page_only
def main(
    minutes: float,
    steps: int | None,
    pair: str,
    starts: tuple[str, ...],
    recipes: tuple[str, ...],
    between: bool,
    page_only: bool,
) -> None:
    """Measure, and write results/healing.json, docs/healing-measured.md and docs/healing-curve.svg and .png."""
    one_thread()
    amount = f"{minutes:g} minutes" if steps is None else f"{steps} steps"
    if not page_only:
        # The gap is that between the first two.
        wanted = dict.fromkeys(("base", "mean", *starts))
        before: list[Cell] = [(f"{pair} | {name}", partial(unhealed, pair, name)) for name in wanted]
        RESULTS.measure_missing(before, under="before healing")
        RESULTS.measure_missing(
            [
                (key_of(pair, start, recipe, amount), partial(healed, pair, start, recipe, amount))
                for start in starts
                for recipe in recipes
            ],
            about=lambda: {"setting": setting(*PACKAGES)},
        )
        RESULTS.measure_missing(
            [
                (
                    f"{key_of(pair, start, recipe, amount)} | {share}",
                    partial(interpolated, pair, start, recipe, amount, share),
                )
                for start in starts
                for recipe in recipes
                for share in (SHARES if between else ())
            ],
            under="interpolated",
        )
        RESULTS.measure_missing(
            [
                *((f"{pair} | {start}", partial(causes, pair, start)) for start in starts),
                *(
                    (key_of(pair, start, recipe, amount), partial(causes, pair, start, recipe, amount))
                    for start in starts
                    for recipe in recipes
                ),
            ],
            under="causes",
        )
    write_page("healing-measured.md", page(RESULTS.for_page()))
    write_picture("healing-curve", curve(RESULTS.for_page()))


if __name__ == "__main__":
    main()
