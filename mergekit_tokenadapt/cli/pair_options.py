"""Options of the commands that put one model onto the vocabulary of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def output_options(command: CommandT) -> CommandT:
    """``--chat-template``, ``--dtype``, ``--force``, ``--quiet``."""
    for option in reversed(
        (
            click.option("--chat-template", metavar="target|base|FILE", help="Whose chat template.  [default: target]"),
            click.option("--dtype", help="dtype of the output, for instance bfloat16.  [default: as it was]"),
            click.option("--force", is_flag=True, help="Replace OUT where it exists."),
            click.option("--quiet", is_flag=True, help="No progress bars, no report."),
        )
    ):
        command = option(command)
    return command


def print_report(report: dict[str, Any], title: str) -> None:
    """The report of `vocabulary_report`, on standard output."""
    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("tokens")
    table.add_column("number", justify="right")
    table.add_column("their rows are")
    meaning = {
        "copied": "the old row of the same bytes, bit for bit",
        "special": "the old row of their counterpart",
        "composed": "made of old rows",
        "fallback": "the mean row: nothing was found for them",
        "padding": "the mean row: rows without a token, never the most likely",
    }
    for name, number in report["tokens"].items():
        table.add_row(name, f"{number:,}", meaning[name])
    console.print(table)
    rows, template = report["rows"], report["chat_template"]
    say = {
        "rows": f"{rows['before']:,} -> {rows['after']:,}" if rows["before"] else f"{rows['after']:,}",
        "digits": f"{report['digits']['before']} -> {report['digits']['after']}",
        "chat template": {"pivot": "the new tokenizer's", "before": "the old one"}.get(
            template["is_that_of"], template["is_that_of"]
        ),
    }
    for token in report["special_tokens"]:
        if token["role"]:
            mean = token["row_of"] == "the mean row"
            say[f"{token['role']} {token['token']}"] = token["row_of"] if mean else f"row of {token['row_of']}"
    for name, value in say.items():
        console.print(f"{name + ':':36}{value}", markup=False, highlight=False, soft_wrap=True)
    if report["digits"]["warning"]:
        click.echo(f"Warning: {report['digits']['warning']}", err=True)
    if template["markers_that_are_not_one_token"]:
        markers = ", ".join(template["markers_that_are_not_one_token"])
        click.echo(f"Warning: markers of the chat template that are not one token: {markers}", err=True)
