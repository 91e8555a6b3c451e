"""The command `mergekit-tokenadapt-eval tokenizer`: measure tokenizers without a model."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.evaluation.options import QualityOptions
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import TextOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval tokenizer ./SmolLM2-135M-Instruct ./deepseek-tokenizer
  mergekit-tokenadapt-eval tokenizer ./tokenizer --builtin tr --morphemes tr=./turkish-morphemes.txt
  mergekit-tokenadapt-eval tokenizer ./tokenizer --mixture english=./en --mixture code=./src
"""


@click.command("tokenizer", epilog=EXAMPLES)
@click.argument("tokenizers", nargs=-1, required=True, metavar="TOK [TOK ...]")
@flags_of(TextOptions, "texts")
@flags_of(QualityOptions, "options")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the tokenizers' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def tokenizer_command(
    tokenizers: tuple[str, ...],
    texts: TextOptions,
    options: QualityOptions,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Measure tokenizers on text: tokens per byte, words, parity between languages, kinds of tokens, digits, spaces.

    TOK is a folder, a tokenizer.json or a hub id; no weights are needed.
    """
    from mergekit_tokenadapt.evaluation.report.tokenizer import print_tokenizers
    from mergekit_tokenadapt.evaluation.tokenizer_quality import describe_tokenizers
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    text_sets = texts.read()
    loaded = [load_tokenizer(name, trust_remote_code=trust_remote_code) for name in tokenizers]
    with Stages(len(loaded), quiet=quiet) as stages:
        result = describe_tokenizers(loaded, text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_tokenizers(Console(), result)
