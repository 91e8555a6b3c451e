"""The command `mergekit-tokenadapt align`: common spans and nearest tokens of two tokenizers."""

from __future__ import annotations

import click

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.options import output_argument
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.two_models.options import AlignOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt align ./gemma-3-270m ./SmolLM2-135M-Instruct law=./statutes.txt ./aligned
  mergekit-tokenadapt align ./teacher ./student chat=./chat.jsonl,field=content ./aligned
"""


@click.command("align", epilog=EXAMPLES)
@click.argument("teacher")
@click.argument("student")
@click.argument("text", metavar="TEXT")
@output_argument
@flags_of(AlignOptions, "options")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars, no report.")
def align_command(
    teacher: str, student: str, text: str, out: str, options: AlignOptions, force: bool, quiet: bool
) -> None:
    """Write OUT/spans.parquet: where the tokenizations of a text by TEACHER and STUDENT have common boundaries.

    TEXT is PATH or NAME=PATH: a file, a folder, or .jsonl (,field=NAME). OUT/nearest_tokens.safetensors has, for
    every id of each vocabulary, the token of the other one with the smallest edit distance.
    """
    from mergekit_tokenadapt.texts import read_text
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer
    from mergekit_tokenadapt.two_models.aligned_files import write_aligned

    report = write_aligned(
        read_text(text),
        load_tokenizer(teacher),
        load_tokenizer(student),
        out,
        nearest=options.nearest,
        force=force,
        quiet=quiet,
    )
    if not quiet:
        click.echo(json_text(report))
