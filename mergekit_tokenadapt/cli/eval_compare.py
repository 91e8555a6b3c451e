"""`mergekit-tokenadapt-eval compare`: quality side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mergekit_tokenadapt.cli.eval_options import check_page, text_options
from mergekit_tokenadapt.cli.types import DTYPES, SEED, Device
from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.terminal.progress import Stages
from mergekit_tokenadapt.terminal.visible import json_text
from mergekit_tokenadapt.texts.selection import COMPARED_BYTES, read_texts

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
@text_options(max_bytes=COMPARED_BYTES)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    help="Tokens that a model reads at a time.  [default: 1024 or the context length]",
)
@click.option("--stride", type=click.IntRange(min=1), help="Tokens scored per window.  [default: half the window]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Largest number of windows at a time.  [default: by memory]"
)
@click.option("--device", type=Device(), help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the loaded weights.  [default: float32 on a CPU]")
@click.option(
    "--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Resamples of the bootstrap."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the bootstrap and of samples in plots.")
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Number of tokens with the largest excess loss to list.",
)
@click.option(
    "-o", "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with tables and plots."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def compare_command(
    base: str,
    outs: tuple[str, ...],
    texts: tuple[str, ...],
    builtin: tuple[str, ...],
    max_bytes: int,
    window: int | None,
    stride: int | None,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
    resamples: int,
    seed: int,
    top: int,
    html: Path | None,
    as_json: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Score texts with BASE and each OUT: bits per byte, tokens per byte, and the tokens with the most loss.

    Without --text and --builtin, all built-in texts are scored: prose, code, arithmetic, hard
    characters, and the Universal Declaration of Human Rights in 14 languages.
    """
    from mergekit_tokenadapt.evaluation.compare import CompareOptions, compare
    from mergekit_tokenadapt.models.folder import open_model

    check_page(html, texts)
    options = CompareOptions(
        window=window,
        stride=stride,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        num_resamples=resamples,
        seed=seed,
        top=top,
        rows=html is not None,
    )
    text_sets = read_texts(texts, builtin, max_bytes)
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in (base, *outs)]
    # Each model is loaded and then scores each text; the bootstrap is the last stage.
    with Stages(len(folders) * (1 + len(text_sets)) + 1, quiet=quiet) as stages:
        result = compare(folders, text_sets, options, stages)
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
