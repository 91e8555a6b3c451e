"""Options that `supertokens train` and `supertokens extend` share, and the way on to a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml

from mergekit_tokenadapt.cli.options import adapt_block, adapt_options
from mergekit_tokenadapt.cli.pair_options import report_printer, say_what_next
from mergekit_tokenadapt.cli.types import FiniteRange

if TYPE_CHECKING:
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.superwords import Limits
    from mergekit_tokenadapt.supertokens.texts import Corpus

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
CROSSING = ("digits", "lines", "sentences", "scripts")


def learning_options(command: CommandT) -> CommandT:
    """``--text`` and everything that says what may be learned from it."""
    for option in reversed(_learning_options()):
        command = option(command)
    return command


def _learning_options() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--text",
            "texts",
            multiple=True,
            required=True,
            metavar="[NAME=]PATH",
            help="A file, a folder, .jsonl (,field=NAME), .gz of these, or hf:ID (,config= ,split= ,field=). "
            "Repeatable; sources take turns. Or one ray:PATH (parquet or .jsonl), counted on a Ray cluster.",
        ),
        click.option("--max-bytes", type=click.IntRange(min=0), default=0, help="Read about so much.  [default: all]"),
        click.option("--max-words", type=click.IntRange(min=1), default=4, show_default=True, help="In one token."),
        click.option("--max-characters", type=click.IntRange(min=1), help="In one token.  [default: any number]"),
        click.option("--no-punctuation", is_flag=True, help="Keep punctuation out of tokens with words."),
        click.option(
            "--cross",
            "crossing",
            multiple=True,
            type=click.Choice(CROSSING),
            help="Allow tokens to cross these boundaries. Repeatable.",
        ),
        click.option(
            "--min-frequency",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="Smallest number of occurrences in the text for a new token.",
        ),
        click.option(
            "--max-memory",
            type=FiniteRange(min=0, min_open=True),
            default=4.0,
            show_default=True,
            metavar="GB",
            help="Memory for counts. If it is not enough, rare pairs and runs are forgotten.",
        ),
        click.option("--force", is_flag=True, help="Replace OUT (and OUT_MODEL) where it exists."),
        click.option("--quiet", is_flag=True, help="No progress bars."),
    ]


def onto_options(command: CommandT) -> CommandT:
    """``--onto`` and the options of the transplant that follows."""
    onto = click.option(
        "--onto",
        nargs=2,
        metavar="MODEL OUT_MODEL",
        help="Then transplant the new tokenizer onto MODEL, and write OUT_MODEL.",
    )
    recipe = click.option("--print-recipe", is_flag=True, help="With --onto: print the recipe instead of running it.")
    return onto(adapt_options(recipe(command)))


def make_rules(max_words: int, max_characters: int | None, no_punctuation: bool, crossing: tuple[str, ...]) -> Rules:
    """What the options let tokens hold."""
    from mergekit_tokenadapt.supertokens.rules import Crossing, Rules

    return Rules(max_words, max_characters, not no_punctuation, frozenset(Crossing(c) for c in crossing))


def make_limits(min_frequency: int, max_memory: float, quiet: bool, **more: Any) -> Limits:
    """What the options let learning use up."""
    from mergekit_tokenadapt.supertokens.superwords import Limits

    return Limits(min_frequency=min_frequency, max_memory=int(max_memory * 2**30), quiet=quiet, **more)


def open_corpus(texts: tuple[str, ...], max_bytes: int) -> Corpus:
    """The text that ``--text`` and ``--max-bytes`` name.

    Raises:
        TokenAdaptError: there is no such text, or ``ray:`` is combined with something that it does not go with.
    """
    from mergekit_tokenadapt.errors import TokenAdaptError
    from mergekit_tokenadapt.supertokens.texts import Corpus
    from mergekit_tokenadapt.texts import parse_text

    places = [parse_text(text) for text in texts]
    if not any(text.place.startswith("ray:") for text in places):
        corpus = Corpus(texts, max_bytes)
        corpus.check()
        return corpus
    from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus

    if len(texts) > 1 or max_bytes:
        raise TokenAdaptError("--text ray:PATH stands alone, and is read to its end: without --max-bytes")
    return RayCorpus.read(places[0].source)


def check_outputs(
    out: str, onto: tuple[str, str] | None, *, force: bool, inputs: Sequence[str], texts: Sequence[str]
) -> bool:
    """Find out before the work that something is in the way.

    Returns:
        Whether a run of the same command may have ended between its two outputs: OUT is there, OUT_MODEL is not.

    Raises:
        TokenAdaptError: see `check_output`.
    """
    from mergekit_tokenadapt.storage.ownership import is_ours
    from mergekit_tokenadapt.storage.staging import check_apart, check_output

    inputs = [*inputs, *(onto[:1] if onto else ())]
    if onto:
        check_apart(out, onto[1])
        check_output(onto[1], force=force, inputs=inputs, texts=texts)
    goes_on = bool(onto) and not force and is_ours(Path(out))
    check_output(out, force=force or goes_on, inputs=inputs, texts=texts)
    return goes_on


def check_onto(onto: tuple[str, str] | None, adapt: tuple[str, str, tuple[str, ...], tuple[str, ...]]) -> None:
    """Find out before the learning that the transplant after it cannot work.

    Raises:
        TokenAdaptError: MODEL is not there, or an option of the method is wrong.
    """
    if onto is None:
        return
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

    config = AdaptConfig.read(adapt_block(*adapt))
    model = open_model(onto[0])
    _ = model.tensors.names
    config.make_method().check(len(model.tokenizer.vocabulary))


def go_onto(
    onto: tuple[str, str],
    tokenizer: str,
    adapt: tuple[str, str, tuple[str, ...], tuple[str, ...]],
    *,
    force: bool,
    quiet: bool,
    print_recipe: bool,
) -> None:
    """Transplant the learned tokenizer onto a model, by the same recipe that `transplant` makes."""
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    model, out = onto
    recipe = make_recipe(model, tokenizer, adapt_block(*adapt))
    if print_recipe:
        click.echo(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), nl=False)
        return
    folder = run_recipe(recipe, out, merge_options(quiet=quiet), force=force, listener=report_printer(model, tokenizer))
    if not quiet:
        say_what_next(folder, model)
