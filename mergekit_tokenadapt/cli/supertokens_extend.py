"""The command `mergekit-tokenadapt supertokens extend`: add tokens to an existing vocabulary."""

from __future__ import annotations

from typing import Any

import click

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.options import output_argument
from mergekit_tokenadapt.cli.supertokens_options import (
    IN_NO_FLAG,
    check_onto,
    check_outputs,
    go_onto,
    onto_options,
    open_corpus,
)
from mergekit_tokenadapt.healing.options import HealAfterOptions
from mergekit_tokenadapt.supertokens.options import CorpusOptions, ExtendOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt supertokens extend ./SmolLM2-135M-Instruct --text ./law --add 8000 ./tokenizer
  mergekit-tokenadapt supertokens extend ./model --text ./src --add 4000 --drop ./tokenizer \\
      --onto ./model ./out --method calibrated
"""


@click.command("extend", epilog=EXAMPLES)
@click.argument("base")
@output_argument
@flags_of(CorpusOptions, "text")
@flags_of(ExtendOptions, "extend", but=IN_NO_FLAG)
@click.option("--force", is_flag=True, help="Replace OUT (and OUT_MODEL) where it exists.")
@onto_options
def extend_command(
    base: str,
    out: str,
    text: CorpusOptions,
    extend: ExtendOptions,
    force: bool,
    onto: tuple[str, str] | None,
    adapt: dict[str, Any],
    healing: HealAfterOptions,
    print_recipe: bool,
) -> None:
    """Add tokens to the BPE tokenizer BASE by continuing its merges, and write the result to the folder OUT.

    The tokens of BASE keep their ids and merges. Text without new tokens is segmented into the same ids as before.
    """
    from mergekit_tokenadapt.supertokens.making import extend_folder
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    goes_on = check_outputs(out, onto, force=force, inputs=[base], texts=text.texts)
    corpus = open_corpus(text)
    heal = check_onto(onto, out, adapt, healing, corpus, force=force, quiet=extend.limits.quiet)
    rules, limits, quiet = extend.rules, extend.limits, extend.limits.quiet
    extension = extend_folder(
        out,
        load_tokenizer(base),
        corpus,
        extend.add,
        rules,
        limits,
        drop=extend.drop,
        force=force,
        may_be_there=goes_on,
    )
    if not quiet:
        click.echo(f"Wrote {out}: {len(extension.added):,} tokens added, {len(extension.dropped):,} dropped", err=True)
        for note in extension.notes:
            click.echo(f"  {note}", err=True)
    if onto:
        go_onto(onto, out, adapt, force=force, quiet=quiet, print_recipe=print_recipe, heal=heal)
