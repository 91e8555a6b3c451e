"""`mergekit-tokenadapt supertokens train`: a new vocabulary from text."""

from __future__ import annotations

import click

from mergekit_tokenadapt.cli.options import output_argument, read_pairs
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
from mergekit_tokenadapt.cli.types import SEED, FiniteRange

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
@click.option(
    "--vocab-size", type=click.IntRange(min=1), required=True, help="Number of tokens, including special tokens."
)
@click.option(
    "--algorithm",
    type=click.Choice(["superwords", "chunks"]),
    default="superwords",
    show_default=True,
    help="superwords: BPE inside words, then across words. chunks: BPE inside random chunks.",
)
@learning_options
@click.option(
    "--like",
    metavar="TOK",
    help="Tokenizer to copy special tokens, chat template and, if possible, word pre-tokenization from.  "
    "[default: MODEL of --onto]",
)
@click.option("--special", "special_tokens", multiple=True, metavar="TOKEN", help="A special token. Repeatable.")
@click.option(
    "--digits",
    type=click.Choice(["1", "3", "all"]),
    default="3",
    show_default=True,
    help="Largest number of digits in a token, unless --like gives the pre-tokenization.",
)
@click.option(
    "--word-share",
    type=FiniteRange(min=0, max=1, min_open=True),
    default=0.5,
    show_default=True,
    help="superwords: share of the vocabulary that is learned inside words, before the rest.",
)
@click.option(
    "--words-from",
    type=FiniteRange(min=0),
    default=1.0,
    show_default=True,
    metavar="GB",
    help="GB of text from which words or chunks are learned; their trainer holds all of them in memory. 0 for all.",
)
@click.option(
    "--chunk-length",
    "lengths",
    multiple=True,
    metavar="LENGTH=PROBABILITY",
    help="chunks: probability of a length in characters. Repeatable; the sum is 1.  [default: bell-shaped, 4 to 23]",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="chunks: seed of the random chunk lengths.")
@onto_options
def train_command(
    out: str,
    vocab_size: int,
    algorithm: str,
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
    like: str | None,
    special_tokens: tuple[str, ...],
    digits: str,
    word_share: float,
    words_from: float,
    lengths: tuple[str, ...],
    seed: int,
    onto: tuple[str, str] | None,
    method: str,
    auxiliary: str,
    options: tuple[str, ...],
    token_map: tuple[str, ...],
    print_recipe: bool,
) -> None:
    """Learn a new tokenizer from text, and write it to the folder OUT."""
    from mergekit_tokenadapt.supertokens.chunks import ChunkLengths
    from mergekit_tokenadapt.supertokens.making import TrainOptions, train_folder
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    goes_on = check_outputs(out, onto, force=force, inputs=[like] if like else [], texts=texts)
    corpus, adapt = open_corpus(texts, max_bytes), (method, auxiliary, options, token_map)
    check_onto(onto, adapt)
    pairs = read_pairs(lengths, "--chunk-length", typed=True)
    try:
        chunk_lengths = ChunkLengths({int(n): float(p) for n, p in pairs.items()}) if pairs else ChunkLengths()
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"--chunk-length: {error}") from error
    train = TrainOptions(
        vocab_size=vocab_size,
        algorithm=algorithm,
        rules=make_rules(max_words, max_characters, no_punctuation, crossing),
        limits=make_limits(min_frequency, max_memory, quiet, words_from=int(words_from * 2**30)),
        special_tokens=special_tokens,
        digits=digits,
        word_share=word_share,
        lengths=chunk_lengths,
        seed=seed,
    )
    name = like or (onto[0] if onto else None)
    tokenizer = load_tokenizer(name) if name else None
    number = train_folder(out, corpus, train, tokenizer, force=force, may_be_there=goes_on)
    if not quiet:
        click.echo(f"Wrote {out}: {number:,} tokens", err=True)
    if onto:
        go_onto(onto, out, adapt, force=force, quiet=quiet, print_recipe=print_recipe)
