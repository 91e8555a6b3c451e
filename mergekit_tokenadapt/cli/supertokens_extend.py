"""`mergekit-tokenadapt supertokens extend`: more tokens for a vocabulary that exists."""

from __future__ import annotations

import click

from mergekit_tokenadapt.cli.options import output_argument
from mergekit_tokenadapt.cli.supertokens_options import (
    check_onto,
    check_outputs,
    go_onto,
    learning_options,
    make_limits,
    make_rules,
    onto_options,
    open_corpus,
)

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt supertokens extend ./SmolLM2-135M-Instruct --text ./law --add 8000 ./tokenizer
  mergekit-tokenadapt supertokens extend ./model --text ./src --add 4000 --drop ./tokenizer \\
      --onto ./model ./out --method calibrated
"""


@click.command("extend", epilog=EXAMPLES)
@click.argument("base")
@output_argument
@click.option("--add", "number", type=click.IntRange(min=0), required=True, help="Tokens to add.")
@click.option(
    "--drop", is_flag=True, help="Keep the size: drop as many tokens as are added, those that the text uses least."
)
@learning_options
@onto_options
def extend_command(
    base: str,
    out: str,
    number: int,
    drop: bool,
    texts: tuple[str, ...],
    max_bytes: int,
    max_words: int,
    max_characters: int | None,
    no_punctuation: bool,
    crossing: tuple[str, ...],
    min_frequency: int,
    max_memory: float,
    force: bool,
    quiet: bool,
    onto: tuple[str, str] | None,
    method: str,
    auxiliary: str,
    options: tuple[str, ...],
    token_map: tuple[str, ...],
    print_recipe: bool,
) -> None:
    """Add tokens to the BPE tokenizer BASE by continuing its merges, and write it to the folder OUT.

    BASE keeps its ids and merges. Text without new tokens gets the same ids as before.
    """
    from mergekit_tokenadapt.supertokens.making import extend_folder
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    goes_on = check_outputs(out, onto, force=force, inputs=[base], texts=texts)
    corpus, adapt = open_corpus(texts, max_bytes), (method, auxiliary, options, token_map)
    check_onto(onto, adapt)
    rules = make_rules(max_words, max_characters, no_punctuation, crossing)
    limits = make_limits(min_frequency, max_memory, quiet)
    extension = extend_folder(
        out, load_tokenizer(base), corpus, number, rules, limits, drop=drop, force=force, may_be_there=goes_on
    )
    if not quiet:
        click.echo(f"Wrote {out}: {len(extension.added):,} tokens added, {len(extension.dropped):,} dropped", err=True)
        for note in extension.notes:
            click.echo(f"  {note}", err=True)
    if onto:
        go_onto(onto, out, adapt, force=force, quiet=quiet, print_recipe=print_recipe)
