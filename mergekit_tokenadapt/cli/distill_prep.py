"""The command `mergekit-tokenadapt distill-prep`: give the student the teacher's vocabulary."""

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
  mergekit-tokenadapt distill-prep ./gemma-3-270m ./SmolLM2-135M-Instruct ./student --method calibrated
  mergekit-tokenadapt distill-prep ./teacher ./student ./out --chat-template base --token-map "<|im_end|>=<end_of_turn>"
"""


@click.command("distill-prep", epilog=EXAMPLES)
@click.argument("teacher")
@click.argument("student")
@output_argument
@adapt_flags(but=SET_BY_PAIR)
@flags_of(HealAfterOptions, "healing")
@output_options
def distill_prep_command(
    teacher: str,
    student: str,
    out: str,
    adapt: dict[str, Any],
    healing: HealAfterOptions,
    dtype: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Write OUT: the model STUDENT with TEACHER's exact ids and number of rows.

    Distillation methods for models with one vocabulary then work. OUT also has distillation.json (how many rows were
    copied or composed) and token_map.safetensors (the old ids that each row comes from).
    """
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.tokenizer.files import read_json
    from mergekit_tokenadapt.two_models.prepare import REPORT, prepare_student

    make = partial(prepare_student, teacher, student, dtype=dtype, options=merge_options(quiet=quiet))
    heal = healing_stage(healing, student, out, force=force, quiet=quiet, make_untied=untied_maker(adapt, make))
    folder = make(out, adapt, force=force, heal=heal)
    if not quiet:
        print_report(read_json(folder / REPORT), f"{student} on the vocabulary of {teacher}")
        click.echo(f"Wrote {folder}", err=True)
