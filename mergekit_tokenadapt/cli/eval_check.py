"""The command `mergekit-tokenadapt-eval check`: check whether a model folder is sound."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.evaluation.options import CheckOptions
from mergekit_tokenadapt.terminal.visible import json_text

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval check ./out
  mergekit-tokenadapt-eval check ./out --base ./SmolLM2-135M-Instruct --json
"""


@click.command("check", epilog=EXAMPLES)
@click.argument("out")
@click.option(
    "--base",
    help="The model that OUT was made from. Tensors and rows that should be unchanged are compared bit by bit.",
)
@flags_of(CheckOptions, "options")
@click.option("--trust-remote-code", is_flag=True, help="Let the model's own code run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def check_command(
    context: click.Context, out: str, base: str | None, options: CheckOptions, trust_remote_code: bool, as_json: bool
) -> None:
    """Check the sizes, special ids, tensors and tokenizer of the model OUT.

    The exit code is 1 if a check failed.
    """
    from mergekit_tokenadapt.evaluation.checks import run_checks
    from mergekit_tokenadapt.evaluation.report.check import check_result, print_check
    from mergekit_tokenadapt.models.folder import open_model

    model = open_model(out, trust_remote_code=trust_remote_code)
    origin = open_model(base, trust_remote_code=trust_remote_code) if base else None
    findings = run_checks(model, origin, run=options.run)
    result = check_result(out, base, findings)
    if as_json:
        click.echo(json_text(result))
    else:
        print_check(Console(), out, findings)
    if not result["sound"]:
        context.exit(1)
