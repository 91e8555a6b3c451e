"""The command `mergekit-tokenadapt draft`: make a draft model for a larger model."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.heal_after import healing_stage, untied_maker
from mergekit_tokenadapt.cli.options import SET_BY_PAIR, adapt_flags, output_argument
from mergekit_tokenadapt.cli.pair_options import output_options, print_report
from mergekit_tokenadapt.healing.options import HealAfterOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt draft ./large ./small ./small-draft --method calibrated
  mergekit-tokenadapt draft ./large ./small ./small-draft --heal --heal-minutes 30 --heal-text ./notes
  mergekit-tokenadapt-eval draft ./large ./small-draft
"""


@click.command("draft", epilog=EXAMPLES)
@click.argument("target")
@click.argument("small")
@output_argument
@adapt_flags(but=SET_BY_PAIR)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Number of rows of OUT, for an engine that pads or trims TARGET.  [default: as TARGET]",
)
@flags_of(HealAfterOptions, "healing")
@output_options
def draft_command(
    target: str,
    small: str,
    out: str,
    adapt: dict[str, Any],
    rows: int | None,
    healing: HealAfterOptions,
    dtype: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Write OUT: the model SMALL with TARGET's exact ids and number of rows, for speculative decoding.

    OUT also has draft.json: how many rows were copied or composed, and which inference engines accept the pair. With
    --heal, OUT is trained on text that TARGET writes; --heal-text then names the text that the prompts come from.
    """
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.tokenizer.files import read_json
    from mergekit_tokenadapt.two_models.draft_model import REPORT, make_draft

    make = partial(make_draft, target, small, rows=rows, dtype=dtype, options=merge_options(quiet=quiet))
    heal = healing_stage(
        healing, small, out, force=force, quiet=quiet, target=target, make_untied=untied_maker(adapt, make)
    )
    folder = make(out, adapt, force=force, heal=heal)
    if quiet:
        return
    report = read_json(folder / REPORT)
    print_report(report, f"{small} on the vocabulary of {target}")
    for engine, answer in report["accepted_by"].items():
        click.echo(f"{'accepted by ' + engine + ':':36}{answer}")
    click.echo(f"Wrote {folder}", err=True)
