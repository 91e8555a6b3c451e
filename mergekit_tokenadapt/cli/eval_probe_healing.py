"""`mergekit-tokenadapt-eval probe-healing`: how fast models heal in training."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.evaluation.options import HealingOptions
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import ProseAndCode

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval probe-healing ./out-mean ./out-calibrated --text code=./src
  mergekit-tokenadapt-eval probe-healing ./out-mean ./out-calibrated --text law=./law.txt --train all --steps 200
"""


@click.command("probe-healing", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@flags_of(ProseAndCode, "texts")
@flags_of(HealingOptions, "options")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def probe_healing_command(
    models: tuple[str, ...],
    texts: ProseAndCode,
    options: HealingOptions,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Train each MODEL for a few steps, and print bits per byte of unseen text.

    The loss before training can mislead, so this compares methods after some training. All models read
    the same passages, and one passage in ten is held out. Nothing is written: to
    get a healed model, use `mergekit-tokenadapt heal`. Training needs four times the
    model's memory in float32.
    """
    from mergekit_tokenadapt.evaluation.healing import Passages, heal
    from mergekit_tokenadapt.evaluation.report.healing import print_healing
    from mergekit_tokenadapt.models.folder import open_model

    text_sets = texts.read()
    Passages.of(text_sets, options)  # is there enough?
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in models]
    with Stages(len(folders) * options.num_looks, quiet=quiet) as stages:
        result = heal(folders, text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_healing(Console(), result)
