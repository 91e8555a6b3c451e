"""Report of the command `check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status
from mergekit_tokenadapt.terminal.tables import plain, say

STYLES = {Status.PASSED: "green", Status.FAILED: "bold red", Status.NOTED: "yellow", Status.SKIPPED: "dim"}


def check_result(model: str, base: str | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the result for JSON."""
    return {
        "command": "check",
        "model": model,
        "base": base,
        "sound": all(f.status is not Status.FAILED for f in findings),
        "findings": [f.as_dict() for f in findings],
    }


def print_check(console: Console, model: str, findings: Sequence[Finding]) -> None:
    """Print one line for each check, and the verdict."""
    table = Table("check", "", "what was seen", box=None, pad_edge=False)
    for finding in findings:
        status = plain(finding.status.value, style=STYLES[finding.status])
        table.add_row(plain(finding.check), status, plain(finding.message))
    console.print(table)
    failed = [f.check for f in findings if f.status is Status.FAILED]
    if failed:
        console.print(plain(f"{model} is not sound: {', '.join(failed)}", style="bold red"), soft_wrap=True)
    else:
        skipped = sum(f.status is Status.SKIPPED for f in findings)
        say(console, f"{model} is sound" + (f", as far as asked ({skipped} skipped)" if skipped else ""))
