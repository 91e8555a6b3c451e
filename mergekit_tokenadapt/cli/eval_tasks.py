"""The command `mergekit-tokenadapt-eval tasks`: run lm-evaluation-harness, and add its scores to our report."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import check_page
from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import TaskOptions
from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.terminal.progress import Stages, shows_progress, without_bars
from mergekit_tokenadapt.terminal.visible import json_text

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval tasks ./model ./out --tasks arc_easy,hellaswag --limit 200
  mergekit-tokenadapt-eval compare ./model ./out --json > compare.json
  mergekit-tokenadapt-eval tasks ./model ./out --tasks arc_easy --report compare.json --html report.html
"""


@click.command("tasks", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@click.option("--tasks", "tasks", required=True, metavar="NAME,NAME", help="Names, as `lm-eval ls tasks` lists them.")
@flags_of(TaskOptions, "options")
@click.option("--report", type=click.Path(path_type=Path), help="JSON of `compare`; the scores are added to it.")
@click.option(
    "-o", "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the joint page; needs --report."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def tasks_command(
    models: tuple[str, ...],
    tasks: str,
    options: TaskOptions,
    report: Path | None,
    html: Path | None,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Run tasks of lm-evaluation-harness on each MODEL."""
    from mergekit_tokenadapt.evaluation.report.compare import print_compare
    from mergekit_tokenadapt.evaluation.report.html import compare_page
    from mergekit_tokenadapt.evaluation.report.tasks import print_tasks
    from mergekit_tokenadapt.evaluation.tasks import add_to_report, run_tasks
    from mergekit_tokenadapt.models.folder import open_model

    if html is not None and report is None:
        raise TokenAdaptError("--html needs --report: a page is made of the JSON of compare and the scores")
    check_page(html, [str(report)] if report is not None else [])
    if report is not None:
        add_to_report(report, {})  # found out now, not after an hour of scoring
    names = [name for name in tasks.split(",") if name.strip()]
    if not names:
        raise TokenAdaptError("--tasks names no task; see lm-eval ls tasks")
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in models]
    bars = nullcontext() if shows_progress(quiet=quiet) else without_bars()  # the harness draws its own
    with bars, Stages(len(folders), quiet=quiet) as stages:
        scores = run_tasks(folders, names, options, stages)
    result = scores if report is None else add_to_report(report, scores)
    if html is not None:
        write_file(html, compare_page(result))
        click.echo(f"Wrote {html}", err=True)
    if as_json:
        click.echo(json_text(result))
    elif report is None:
        print_tasks(Console(), result)
    else:
        print_compare(Console(), result)
