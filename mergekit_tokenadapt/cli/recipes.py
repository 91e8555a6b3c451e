"""The command `mergekit-tokenadapt recipes`: print or write example recipes."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_tokenadapt.errors import TokenAdaptError

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt recipes
  mergekit-tokenadapt recipes tokenizer_swap_calibrated
  mergekit-tokenadapt recipes tokenizer_swap_calibrated -o recipe.yml
  mergekit-yaml recipe.yml ./out
"""


@click.command("recipes", epilog=EXAMPLES)
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the recipe to this file.  [default: print it]",
)
@click.option("--force", is_flag=True, help="Replace FILE where it exists.  [default: refuse]")
def recipes_command(name: str | None, output: Path | None, force: bool) -> None:
    """Print or write a recipe for mergekit-yaml or mergekit-multi; without NAME, list them all.

    Replace ./demo/... by your own models, then run the recipe as its first lines say.
    """
    from mergekit_tokenadapt.cli.recipe_files import recipe_names, recipe_summary, recipe_text
    from mergekit_tokenadapt.storage.file_writing import write_file

    if name is None:
        if output is not None:
            raise click.UsageError("-o writes one recipe: give its NAME")
        width = max(map(len, recipe_names()))
        for known in recipe_names():
            click.echo(f"{known:{width}}  {recipe_summary(known)}")
        return
    text = recipe_text(name)
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists() and not force:
        raise TokenAdaptError(f"{output} exists already; give another name, or --force to replace it")
    write_file(output, text)
    click.echo(f"Wrote {output}", err=True)
