"""The command `mergekit-tokenadapt restore`: give a model its old vocabulary back."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_tokenadapt.cli.options import output_argument

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt restore ./student ./restored
  mergekit-tokenadapt restore ./student-trained ./restored --manifest ./student --base ./SmolLM2-135M-Instruct
"""


@click.command("restore", epilog=EXAMPLES)
@click.argument("model")
@output_argument
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="The folder with tokenadapt.json and tokenadapt.plan, if MODEL lacks them.",
)
@click.option("--base", help="The model that MODEL was made from.  [default: as the manifest says]")
@click.option(
    "--input",
    "input_number",
    type=click.IntRange(min=0),
    help="For a merge: number of the input model whose vocabulary is restored, from 0.",
)
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def restore_command(
    model: str, out: str, manifest: Path | None, base: str | None, input_number: int | None, force: bool, quiet: bool
) -> None:
    """Write OUT: the transplanted MODEL with the tokenizer, ids and rows that it had before.

    Rows of tokens that both vocabularies have come from MODEL, bit for bit. Rows that the transplant dropped come
    from the base model; later training of MODEL did not change them.
    """
    from mergekit_tokenadapt.two_models.restore import restore

    done = restore(model, out, manifest=manifest, base=base, input_number=input_number, force=force)
    if not quiet:
        click.echo(f"{done.rows:,} rows: {done.from_model:,} of {model}, {done.from_base:,} of the base model")
        click.echo(f"Wrote {done.folder}", err=True)
