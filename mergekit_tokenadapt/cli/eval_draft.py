"""`mergekit-tokenadapt-eval draft`: acceptance of a draft model."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import text_options
from mergekit_tokenadapt.cli.types import DTYPES, SEED, Device, FiniteRange
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import read_texts

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval draft ./large-model ./small-model-with-its-tokenizer
  mergekit-tokenadapt-eval draft ./large ./small --builtin code --proposed 8 --temperature 0.7
"""


@click.command("draft", epilog=EXAMPLES)
@click.argument("target")
@click.argument("draft")
@text_options(max_bytes=0)
@click.option("--prompts", type=click.IntRange(min=1), default=20, show_default=True, help="Largest number of prompts.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens of each prompt."
)
@click.option(
    "--new-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Tokens generated after each prompt.",
)
@click.option(
    "--proposed",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Tokens that the draft proposes in a round.",
)
@click.option(
    "--temperature",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the sampled run.",
)
@click.option("--device", type=Device(), help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the loaded weights.  [default: float32 on a CPU]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sampled run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def draft_command(
    target: str,
    draft: str,
    texts: tuple[str, ...],
    builtin: tuple[str, ...],
    max_bytes: int,
    prompts: int,
    prompt_tokens: int,
    new_tokens: int,
    proposed: int,
    temperature: float,
    device: str | None,
    dtype: str | None,
    seed: int,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Measure how many guesses of DRAFT are accepted by TARGET in speculative decoding.

    Prompts are the beginnings of documents. The default texts are English prose and code.
    """
    from mergekit_tokenadapt.evaluation.draft import NUM_STAGES, DraftOptions, measure_draft
    from mergekit_tokenadapt.evaluation.report.draft import print_draft
    from mergekit_tokenadapt.models.folder import open_model

    options = DraftOptions(
        num_proposed=proposed,
        num_tokens=new_tokens,
        prompt_tokens=prompt_tokens,
        temperature=temperature,
        max_prompts=prompts,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    named = builtin or (() if texts else ("prose", "code"))
    text_sets = read_texts(texts, named, max_bytes)
    models = [open_model(name, trust_remote_code=trust_remote_code) for name in (target, draft)]
    with Stages(NUM_STAGES, quiet=quiet) as stages:
        result = measure_draft(models[0], models[1], text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_draft(Console(), result)
