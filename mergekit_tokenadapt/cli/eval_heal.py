"""`mergekit-tokenadapt-eval heal`: how fast models heal in training."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import text_options
from mergekit_tokenadapt.cli.types import SEED, Device, FiniteRange
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import read_texts

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval heal ./out-mean ./out-calibrated --text code=./src
  mergekit-tokenadapt-eval heal ./out-mean ./out-calibrated --text law=./law.txt --train all --steps 200 --every 50
"""


@click.command("heal", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@text_options(max_bytes=0)
@click.option(
    "--train",
    type=click.Choice(["rows", "all"]),
    default="rows",
    show_default=True,
    help="rows: train input and output rows, body frozen. all: train all weights.",
)
@click.option("--steps", type=click.IntRange(min=1), default=40, show_default=True, help="Of training.")
@click.option(
    "--every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between two measurements."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Passages in a step.")
@click.option(
    "--passage-bytes", type=click.IntRange(min=16), default=512, show_default=True, help="Largest passage, in bytes."
)
@click.option(
    "--learning-rate",
    type=FiniteRange(min=0, min_open=True),
    help="Of AdamW.  [default: 1e-3 for rows, 1e-4 for all]",
)
@click.option(
    "--held-out-bytes",
    type=click.IntRange(min=0),
    default=4000,
    show_default=True,
    help="Bytes of the held-out tenth to score, in whole passages; 0 for all.",
)
@click.option("--device", type=Device(), help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the order of the passages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def heal_command(
    models: tuple[str, ...],
    texts: tuple[str, ...],
    builtin: tuple[str, ...],
    max_bytes: int,
    train: str,
    steps: int,
    every: int,
    batch_size: int,
    passage_bytes: int,
    learning_rate: float | None,
    held_out_bytes: int,
    device: str | None,
    seed: int,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Train each MODEL for a few steps, and print bits per byte of unseen text.

    The loss before training can mislead, so this compares methods after some training. All models read
    the same passages, and one passage in ten is held out. Nothing is written. Training needs four times the
    model's memory in float32.
    """
    from mergekit_tokenadapt.evaluation.healing import HealingOptions, Passages, heal
    from mergekit_tokenadapt.evaluation.report.healing import print_healing
    from mergekit_tokenadapt.models.folder import open_model

    options = HealingOptions(
        train="rows" if train == "rows" else "all",
        steps=steps,
        every=every,
        batch_size=batch_size,
        passage_bytes=passage_bytes,
        learning_rate=learning_rate,
        held_out_bytes=held_out_bytes,
        seed=seed,
        device=device,
    )
    named = builtin or (() if texts else ("prose", "code"))
    text_sets = read_texts(texts, named, max_bytes)
    Passages.of(text_sets, options)  # is there enough?
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in models]
    with Stages(len(folders) * options.num_looks, quiet=quiet) as stages:
        result = heal(folders, text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_healing(Console(), result)
