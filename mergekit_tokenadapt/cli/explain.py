"""`mergekit-tokenadapt explain`: what one new row is made of."""

from __future__ import annotations

import json
from typing import Any

import click

from mergekit_tokenadapt.cli.base_model import make_transfer
from mergekit_tokenadapt.cli.options import adapt_block, adapt_options
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.matching import Reason
from mergekit_tokenadapt.plan import TransferPlan
from mergekit_tokenadapt.transfer import Transfer
from mergekit_tokenadapt.vocabulary import Token

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt explain ./SmolLM2-135M-Instruct ./deepseek-tokenizer --token " example"
  mergekit-tokenadapt explain ./model ./tokenizer --token " nation" --token "進" --method mean
"""


@click.command("explain", epilog=EXAMPLES)
@click.argument("base")
@click.argument("target")
@click.option("--token", "texts", multiple=True, required=True, help="Text or spelling of a target token. Repeatable.")
@adapt_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def explain_command(
    base: str,
    target: str,
    texts: tuple[str, ...],
    method: str,
    auxiliary: str,
    options: tuple[str, ...],
    token_map: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Show which old tokens, with which weights, make the row of a token of TARGET."""
    transfer = make_transfer(base, target, adapt_block(method, auxiliary, options, token_map), quiet=quiet)
    tokens = [_find(transfer, text) for text in texts]
    plan = transfer.make_plan(only=frozenset(t.id for t in tokens))
    reports = [_explain(token, plan, transfer) for token in tokens]
    if as_json:
        click.echo(json.dumps(reports, indent=2, ensure_ascii=False))
        return
    for report in reports:
        click.echo(f"{json.dumps(report['text'], ensure_ascii=False)} (id {report['id']}): {report['reason']}")
        for part in report["made_of"]:
            text = json.dumps(part["text"], ensure_ascii=False)
            click.echo(f"  {part['weight']:7.4f}  {text} (old id {part['id']})")
        if report["calibrated"]:
            click.echo("  and a map fitted on the model's own rows, from these pieces and the token's neighbours")
        if not report["made_of"]:
            click.echo("  the mean of all old rows")


def _find(transfer: Transfer, text: str) -> Token:
    token = transfer.target.vocabulary.find(text)
    if token is None:
        raise TokenAdaptError(f"{text!r} is not one token of {transfer.target.name!r}")
    return token


def _explain(token: Token, plan: TransferPlan, transfer: Transfer) -> dict[str, Any]:
    old = transfer.base.vocabulary.by_id
    made_of = [{"id": i, "text": old[i].label, "weight": round(w, 6)} for i, w in plan.explain(token.id)]
    reason = Reason(int(plan.mapping.reasons[token.id]))
    return {
        "id": token.id,
        "text": token.label,
        "kind": token.kind.value,
        "reason": reason.name.lower(),
        "made_of": made_of,
        "calibrated": reason is Reason.NEW and transfer.method.calibrates and bool(made_of),
    }
