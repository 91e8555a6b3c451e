"""The command `mergekit-tokenadapt-eval draft`: measure the acceptance of a draft model."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.evaluation.options import DraftOptions
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import ProseAndCode

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval draft ./large-model ./small-model-with-its-tokenizer
  mergekit-tokenadapt-eval draft ./large ./small --builtin code --proposed 8 --temperature 0.7
"""


@click.command("draft", epilog=EXAMPLES)
@click.argument("target")
@click.argument("draft")
@flags_of(ProseAndCode, "texts")
@flags_of(DraftOptions, "options")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def draft_command(
    target: str,
    draft: str,
    texts: ProseAndCode,
    options: DraftOptions,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Measure how many of the tokens proposed by DRAFT are accepted by TARGET in speculative decoding.

    The starts of documents are the prompts. The default texts are English prose and code.
    """
    from mergekit_tokenadapt.evaluation.draft import NUM_STAGES, measure_draft
    from mergekit_tokenadapt.evaluation.report.draft import print_draft
    from mergekit_tokenadapt.models.folder import open_model

    text_sets = texts.read()
    models = [open_model(name, trust_remote_code=trust_remote_code) for name in (target, draft)]
    with Stages(NUM_STAGES, quiet=quiet) as stages:
        result = measure_draft(models[0], models[1], text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_draft(Console(), result)
