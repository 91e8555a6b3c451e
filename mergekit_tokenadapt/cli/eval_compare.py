"""The command `mergekit-tokenadapt-eval compare`: compare models on the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import check_page
from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.evaluation.options import CompareOptions
from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import ComparedTexts

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt-eval compare ./SmolLM2-135M-Instruct ./out
  mergekit-tokenadapt-eval compare ./model ./out-mean ./out-hybrid --html report.html
  mergekit-tokenadapt-eval compare ./model ./out --builtin en --builtin code --max-bytes 0
  mergekit-tokenadapt-eval compare ./model ./out --text law=./statutes --text chat=./chat.jsonl,field=content
"""


@click.command("compare", epilog=EXAMPLES)
@click.argument("base")
@click.argument("outs", nargs=-1, required=True, metavar="OUT [OUT ...]")
@flags_of(ComparedTexts, "texts")
@flags_of(CompareOptions, "options", but=("rows",))
@click.option(
    "-o", "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with tables and plots."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def compare_command(
    base: str,
    outs: tuple[str, ...],
    texts: ComparedTexts,
    options: CompareOptions,
    html: Path | None,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Score texts with BASE and each OUT: bits per byte, tokens per byte, and the tokens with the most loss.

    Without --text and --builtin, all built-in texts are scored: prose, code, arithmetic, hard
    characters, and the Universal Declaration of Human Rights in 14 languages.
    """
    from mergekit_tokenadapt.evaluation.compare import compare
    from mergekit_tokenadapt.models.folder import open_model

    check_page(html, texts.texts)
    text_sets = texts.read()
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in (base, *outs)]
    # Each model is loaded and then scores each text; the bootstrap is the last stage.
    with Stages(len(folders) * (1 + len(text_sets)) + 1, quiet=quiet) as stages:
        result = compare(folders, text_sets, options.model_copy(update={"rows": html is not None}), stages)
    _deliver(result, html, as_json=as_json)


def _deliver(result: dict[str, Any], html: Path | None, *, as_json: bool) -> None:
    if html is not None:
        from mergekit_tokenadapt.evaluation.report.html import compare_page

        write_file(html, compare_page(result))
        click.echo(f"Wrote {html}", err=True)
    if as_json:
        click.echo(json_text(result))
    else:
        from mergekit_tokenadapt.evaluation.report.compare import print_compare

        print_compare(Console(), result)
