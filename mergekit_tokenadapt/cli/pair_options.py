"""Options of the commands that give one model the vocabulary of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mergekit_tokenadapt.cli.types import OUTPUT_DTYPE

if TYPE_CHECKING:
    from mergekit_tokenadapt.plugin.reporting import Listener

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def output_options(command: CommandT) -> CommandT:
    """Add ``--dtype``, ``--force`` and ``--quiet``."""
    for option in reversed(
        (
            click.option("--dtype", type=OUTPUT_DTYPE, help="Dtype of the output's weights.  [default: as before]"),
            click.option("--force", is_flag=True, help="Replace OUT where it exists."),
            click.option("--quiet", is_flag=True, help="No progress bars, no report."),
        )
    ):
        command = option(command)
    return command


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Print the report of `change_report` on standard output, and its warning on standard error."""
    from mergekit_tokenadapt.output.change_report_text import print_report

    print_report(report, title)
    if report["digits"]["warning"]:
        click.echo(f"Warning: {report['digits']['warning']}", err=True)


def report_printer(model: str, tokenizer: str) -> Listener:
    """Return a listener for `run_recipe` that prints the report of a transplant."""
    return lambda report: print_report(report, f"{model} with the tokenizer {tokenizer}")


def say_what_next(out: Path, base: str) -> None:
    """Print the folder that a transplant has written, and the commands that check and compare it."""
    from mergekit_tokenadapt.output.change_report_text import next_commands

    click.echo(f"Wrote {out}", err=True)
    for command, asks in zip(next_commands(str(out), base), ("is it sound?", "how good is it?"), strict=True):
        click.echo(f"next: {command}   # {asks}", err=True)
