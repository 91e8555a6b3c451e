"""The command `mergekit-tokenadapt supertokens report`: measure compression and safety."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import TextOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt supertokens report ./tokenizer --against ./SmolLM2-135M-Instruct
  mergekit-tokenadapt supertokens report ./tokenizer --against ./a --against ./b --text law=./held-out --json
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("tokenizer")
@click.option("--against", multiple=True, metavar="TOK", help="A tokenizer to compare with. Repeatable.")
@flags_of(TextOptions, "texts")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def report_command(
    tokenizer: str,
    against: tuple[str, ...],
    texts: TextOptions,
    as_json: bool,
) -> None:
    """Measure how many tokens TOKENIZER needs, and whether its tokens obey the rules of `train`.

    --text should name text that TOKENIZER was not learned from. Without it, the built-in texts are used.
    """
    from mergekit_tokenadapt.evaluation.report.supertokens import print_supertokens
    from mergekit_tokenadapt.supertokens.report import describe
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    text_sets = texts.read()
    loaded = [load_tokenizer(name) for name in (tokenizer, *against)]
    result = describe(loaded, text_sets)
    if as_json:
        click.echo(json_text(result))
    else:
        print_supertokens(Console(), result)
