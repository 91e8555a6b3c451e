"""The command `mergekit-tokenadapt supertokens train`: learn a new vocabulary from text."""

from __future__ import annotations

from typing import Any

import click

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.options import output_argument, refuse_idle
from mergekit_tokenadapt.cli.supertokens_options import (
    IN_NO_FLAG,
    check_onto,
    check_outputs,
    go_onto,
    onto_options,
    open_corpus,
)
from mergekit_tokenadapt.healing.options import HealAfterOptions
from mergekit_tokenadapt.supertokens.options import CorpusOptions, TrainOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt supertokens train --text ./texts --vocab-size 64000 ./tokenizer
  mergekit-tokenadapt supertokens train --text ./en --text ./src --vocab-size 32000 ./tokenizer \\
      --onto ./SmolLM2-135M-Instruct ./out --method hybrid
  mergekit-tokenadapt supertokens train --text hf:some/texts,split=train --max-bytes 1000000000 \\
      --vocab-size 64000 --algorithm chunks ./tokenizer
  mergekit-tokenadapt supertokens train --text ./texts --vocab-size 4096 --max-characters 3 --max-words 1 \\
      ./tokenizer-for-text-correction
"""


@click.command("train", epilog=EXAMPLES)
@output_argument
@flags_of(CorpusOptions, "text")
@flags_of(TrainOptions, "train", but=IN_NO_FLAG)
@click.option(
    "--like",
    metavar="TOK",
    help="Tokenizer to copy special and added tokens, chat template and, if possible, word pre-tokenization from.  "
    "[default: MODEL of --onto]",
)
@click.option("--force", is_flag=True, help="Replace OUT (and OUT_MODEL) where it exists.")
@onto_options
def train_command(
    out: str,
    text: CorpusOptions,
    train: TrainOptions,
    like: str | None,
    force: bool,
    onto: tuple[str, str] | None,
    adapt: dict[str, Any],
    healing: HealAfterOptions,
    print_recipe: bool,
) -> None:
    """Learn a new tokenizer from text, and write it to the folder OUT."""
    from mergekit_tokenadapt.supertokens.making import train_folder
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    idle = {"chunks": ("word_share",), "superwords": ("lengths", "seed")}[train.algorithm]
    refuse_idle(idle, f"does nothing with --algorithm {train.algorithm}")
    goes_on = check_outputs(out, onto, force=force, inputs=[like] if like else [], texts=text.texts)
    corpus = open_corpus(text)
    heal = check_onto(onto, out, adapt, healing, corpus, force=force, quiet=train.limits.quiet)
    name = like or (onto[0] if onto else None)
    tokenizer = load_tokenizer(name) if name else None
    quiet = train.limits.quiet
    number = train_folder(out, corpus, train, tokenizer, force=force, may_be_there=goes_on)
    if not quiet:
        click.echo(f"Wrote {out}: {number:,} tokens", err=True)
    if onto:
        go_onto(onto, out, adapt, force=force, quiet=quiet, print_recipe=print_recipe, heal=heal)
