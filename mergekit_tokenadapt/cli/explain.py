"""The command `mergekit-tokenadapt explain`: show what new rows are composed of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mergekit_tokenadapt.cli.base_model import make_transfer
from mergekit_tokenadapt.cli.options import adapt_flags, folder_options
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.visible import json_text

if TYPE_CHECKING:  # these import torch, which --help does not need
    from mergekit_tokenadapt.front_door.explanation import RowExplanation
    from mergekit_tokenadapt.transfer.transfer import Transfer

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt explain ./SmolLM2-135M-Instruct ./deepseek-tokenizer --token " example"
  mergekit-tokenadapt explain ./model ./tokenizer --token " nation" --token "進" --method mean
  mergekit-tokenadapt explain ./model ./tokenizer --id 3 --token "<|im_end|>" --json
"""


@click.command("explain", epilog=EXAMPLES)
@click.argument("base")
@click.argument("target")
@click.option("--token", "texts", multiple=True, help="Text or spelling of a token of TARGET. Repeatable.")
@click.option("--id", "ids", type=int, multiple=True, help="Id of a token of TARGET. Repeatable.")
@adapt_flags()
@folder_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.pass_context
def explain_command(
    ctx: click.Context,
    base: str,
    target: str,
    texts: tuple[str, ...],
    ids: tuple[int, ...],
    adapt: dict[str, Any],
    pad_to_multiple_of: int | None,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show the old tokens and weights that make the row of a token of TARGET.

    Takes the options of `transplant` that decide about rows. If TARGET has no token with a given text, an error names
    the nearest tokens, and the exit code is 2. The tokens that TARGET has are shown first.
    """
    if not texts and not ids:
        raise click.UsageError("give a --token or an --id")
    transfer = make_transfer(base, target, adapt, quiet=quiet, pad_to_multiple_of=pad_to_multiple_of)
    rows, errors = _rows_of(transfer, texts, ids)
    reports = list(_explain(transfer, rows))
    if as_json:
        click.echo(json_text([report.as_dict() for report in reports]))
    else:
        for report in reports:
            click.echo(str(report))
    for error in errors:
        error.show()
    if errors:
        ctx.exit(TokenAdaptError.exit_code)


def _rows_of(
    transfer: Transfer, texts: tuple[str, ...], ids: tuple[int, ...]
) -> tuple[list[int], list[TokenAdaptError]]:
    """Return the rows of the named tokens, and the errors of names that are no tokens."""
    from mergekit_tokenadapt.tokenizer.token_lookup import find_id, find_token

    rows: list[int] = []
    errors = []
    for text in texts:
        try:
            rows.append(find_token(transfer.target, text).id)
        except TokenAdaptError as error:
            errors.append(error)
    for token_id in ids:
        try:
            find_id(transfer.target, token_id, transfer.num_rows)
            rows.append(token_id)
        except TokenAdaptError as error:
            errors.append(error)
    return rows, errors


def _explain(transfer: Transfer, rows: list[int]) -> Iterator[RowExplanation]:
    from mergekit_tokenadapt.front_door.explanation import RowExplanation

    if not rows:
        return
    asked = transfer.among(rows)
    plan, told = asked.make_plan(), transfer.method.explain(asked)
    for row in rows:
        yield RowExplanation.of(row, plan, transfer, told.get(row))
