"""`mergekit-tokenadapt-eval tokenizer`: quality of tokenizers, without a model."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import text_options
from mergekit_tokenadapt.cli.options import read_pairs
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import read_texts

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval tokenizer ./SmolLM2-135M-Instruct ./deepseek-tokenizer
  mergekit-tokenadapt-eval tokenizer ./tokenizer --builtin tr --morphemes tr=./turkish-morphemes.txt
  mergekit-tokenadapt-eval tokenizer ./tokenizer --mixture english=./en --mixture code=./src
"""


@click.command("tokenizer", epilog=EXAMPLES)
@click.argument("tokenizers", nargs=-1, required=True, metavar="TOK [TOK ...]")
@text_options(max_bytes=0)
@click.option("--reference", default="en", show_default=True, help="Language with a parity of 1.")
@click.option(
    "--words",
    multiple=True,
    metavar="LANG",
    help="Also give the share of tokens that are words of this language (needs wordfreq).",
)
@click.option(
    "--morphemes",
    multiple=True,
    metavar="LANG=FILE",
    help="File of words or morphemes of a language, one a line. Repeatable.",
)
@click.option(
    "--mixture",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Sample of a category of training text, whose share is estimated. Repeatable.",
)
@click.option(
    "--merges", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of merges used for --mixture."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the tokenizers' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def tokenizer_command(
    tokenizers: tuple[str, ...],
    texts: tuple[str, ...],
    builtin: tuple[str, ...],
    max_bytes: int,
    reference: str,
    words: tuple[str, ...],
    morphemes: tuple[str, ...],
    mixture: tuple[str, ...],
    merges: int,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Measure tokenizers on text: tokens per byte, words, parity between languages, kinds of tokens, digits, spaces.

    TOK is a folder, a tokenizer.json or a hub id; no weights are needed.
    """
    from mergekit_tokenadapt.evaluation.report.tokenizer import print_tokenizers
    from mergekit_tokenadapt.evaluation.tokenizer_quality import QualityOptions, describe_tokenizers
    from mergekit_tokenadapt.texts import read_text
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    options = QualityOptions(
        reference=reference,
        word_languages=words,
        units={k: Path(v) for k, v in read_pairs(morphemes, "--morphemes", typed=False).items()},
        mixture=tuple(read_text(argument, option="--mixture") for argument in mixture),
        num_merges=merges,
    )
    text_sets = read_texts(texts, builtin, max_bytes)
    loaded = [load_tokenizer(name, trust_remote_code=trust_remote_code) for name in tokenizers]
    with Stages(len(loaded), quiet=quiet) as stages:
        result = describe_tokenizers(loaded, text_sets, options, stages)
    if as_json:
        click.echo(json_text(result))
    else:
        print_tokenizers(Console(), result)
