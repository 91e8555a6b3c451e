"""`mergekit-tokenadapt explain`: what one new row is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mergekit_tokenadapt.cli.base_model import make_transfer
from mergekit_tokenadapt.cli.options import every_adapt_option, folder_options
from mergekit_tokenadapt.cli.token_lookup import find_id, find_token
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.report.tables import quoted
from mergekit_tokenadapt.matching import Reason
from mergekit_tokenadapt.methods.base import Explanation
from mergekit_tokenadapt.plan import TransferPlan, make_plan
from mergekit_tokenadapt.transfer import Transfer
from mergekit_tokenadapt.visible import json_text

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt explain ./SmolLM2-135M-Instruct ./deepseek-tokenizer --token " example"
  mergekit-tokenadapt explain ./model ./tokenizer --token " nation" --token "進" --method mean
  mergekit-tokenadapt explain ./model ./tokenizer --id 3 --token "<|im_end|>" --json
"""

MADE = {
    "copied": "copied: the old row of the same bytes, bit for bit",
    "special": "special: the row of its counterpart",
    "new": "new",
    "padding": "padding: a row without a token",
    "muted": "muted: another token of TARGET stands for the same byte, and this one is never produced",
}
"""What is said of each reason."""


@click.command("explain", epilog=EXAMPLES)
@click.argument("base")
@click.argument("target")
@click.option("--token", "texts", multiple=True, help="Text or spelling of a token of TARGET. Repeatable.")
@click.option("--id", "ids", type=int, multiple=True, help="Id of a token of TARGET. Repeatable.")
@every_adapt_option
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

    Takes the options of `transplant`. If a text is not a token of TARGET, the nearest tokens are named, the others are
    shown all the same, and the exit code is 2.
    """
    if not texts and not ids:
        raise click.UsageError("give a --token or an --id")
    transfer = make_transfer(base, target, adapt, quiet=quiet, pad_to_multiple_of=pad_to_multiple_of)
    rows, errors = _rows_of(transfer, texts, ids)
    reports = list(_explain(transfer, rows))
    if as_json:
        click.echo(json_text(reports))
    else:
        for report in reports:
            _print(report)
    for error in errors:
        error.show()
    if errors:
        ctx.exit(TokenAdaptError.exit_code)


def _rows_of(
    transfer: Transfer, texts: tuple[str, ...], ids: tuple[int, ...]
) -> tuple[list[int], list[TokenAdaptError]]:
    """The rows that are asked for, and what was wrong with the rest."""
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


def _explain(transfer: Transfer, rows: list[int]) -> Iterator[dict[str, Any]]:
    if not rows:
        return
    problem = transfer.make_problem(only=frozenset(rows))
    plan = make_plan(problem, transfer.method_name, transfer.method)
    told = transfer.method.explain(problem)
    for row in rows:
        yield _report(row, plan, transfer, told.get(row, Explanation()))


def _report(row: int, plan: TransferPlan, transfer: Transfer, told: Explanation) -> dict[str, Any]:
    token, old = transfer.target.vocabulary.by_id.get(row), transfer.base.vocabulary.by_id
    made_of = [{"id": i, "text": old[i].label, "weight": round(w, 6)} for i, w in plan.explain(row)]
    neighbours = [{"id": i, "text": old[i].label, "similarity": round(s, 6)} for i, s in told.neighbours]
    reason = Reason(int(plan.mapping.reasons[row])).name.lower()
    is_mixed = bool(made_of) and int(plan.mapping.sources[row]) < 0
    return {
        "id": row,
        "text": None if token is None else token.label,
        "kind": None if token is None else token.kind.value,
        "reason": "muted" if bool((plan.muted_ids == row).any()) else reason,
        "method": plan.method if is_mixed and reason == "new" else None,
        "made_of": made_of,
        "weights_are": told.weights_are if is_mixed else None,
        "neighbours": neighbours if made_of else [],
        "calibrated": reason == "new" and transfer.method.calibrates and bool(made_of),
    }


def _print(report: dict[str, Any]) -> None:
    name = "no token" if report["text"] is None else quoted(report["text"])
    by = f", made by {report['method']}" if report["method"] else ""
    click.echo(f"{name} (id {report['id']}): {MADE[report['reason']]}{by}")
    if not report["made_of"]:
        click.echo("  the mean of all other new rows, which is never the most likely")
    if report["weights_are"]:
        click.echo("  weight of the old row")
    for part in report["made_of"]:
        click.echo(f"  {part['weight']:7.4f}  {quoted(part['text'])} (old id {part['id']})")
    if report["neighbours"]:
        click.echo("  similarity of the neighbours among the old tokens")
    for part in report["neighbours"]:
        click.echo(f"  {part['similarity']:7.4f}  {quoted(part['text'])} (old id {part['id']})")
    if report["weights_are"]:
        click.echo(f"  ({report['weights_are']})")
