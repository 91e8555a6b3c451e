"""The command `mergekit-tokenadapt methods`: list installed methods and auxiliary spaces."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.terminal.tables import plain
from mergekit_tokenadapt.terminal.visible import json_text

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt methods
  mergekit-tokenadapt methods --json
"""


@click.command("methods", epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def methods_command(as_json: bool) -> None:
    """List the installed methods and auxiliary spaces, with options.

    Other packages add to both through the entry-point groups mergekit_tokenadapt.methods and
    mergekit_tokenadapt.auxiliary.
    """
    from mergekit_tokenadapt.auxiliary import AuxiliarySpace  # imports torch, which --help does not need

    methods = [_describe(name) for name in entry_points.names(entry_points.METHODS)]
    spaces = [
        {"name": name, "summary": _first_line(entry_points.load(entry_points.AUXILIARY, name, AuxiliarySpace))}
        for name in entry_points.names(entry_points.AUXILIARY)
    ]
    if as_json:
        click.echo(json_text({"methods": methods, "auxiliary": spaces}))
        return
    console = Console()
    table = Table("method", "what it does", "options (defaults)", "source", title="Methods", title_justify="left")
    for method in methods:
        options = [f"{o['name']} ({o['default']}): {o['description']}" for o in method["options"]]
        uses = "uses an auxiliary space" if method["needs_auxiliary"] else "no auxiliary space"
        cells = (method["name"], f"{method['summary']}; {uses}", "\n".join(options), method["source"])
        table.add_row(*map(plain, cells))
    console.print(table)
    table = Table("auxiliary", "what it is, and how to name it", title="Auxiliary spaces", title_justify="left")
    for space in spaces:
        table.add_row(plain(space["name"]), plain(space["summary"]))
    console.print(table)


def _describe(name: str) -> dict[str, Any]:
    from mergekit_tokenadapt.methods import Method

    method = entry_points.load(entry_points.METHODS, name, Method)
    return {
        "name": name,
        "summary": method.summary,
        "source": method.source,
        "needs_auxiliary": method.needs_auxiliary,
        "options": [
            {
                "name": option,
                "default": "required" if field.is_required() else field.default,
                "description": field.description or "",
            }
            for option, field in method.model_fields.items()
        ],
    }


def _first_line(described: type) -> str:
    return next(iter((described.__doc__ or "").strip().splitlines()), "").replace("``", "")
