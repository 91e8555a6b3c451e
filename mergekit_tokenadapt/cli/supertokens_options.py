"""Parts that `supertokens train` and `supertokens extend` share: reading the text, and the transplant after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.heal_after import healing_stage, untied_maker
from mergekit_tokenadapt.cli.options import adapt_flags
from mergekit_tokenadapt.cli.pair_options import report_printer, say_what_next
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import HealAfterOptions

if TYPE_CHECKING:
    from mergekit_tokenadapt.supertokens.options import CorpusOptions
    from mergekit_tokenadapt.supertokens.texts import Corpus

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


IN_NO_FLAG = ("characters_only",)
"""Fields of the rules without a flag. The first phase of learning sets them."""


def onto_options(command: CommandT) -> CommandT:
    """Add ``--onto`` and the options of the transplant that follows."""
    onto = click.option(
        "--onto",
        nargs=2,
        metavar="MODEL OUT_MODEL",
        help="Then transplant the new tokenizer onto MODEL, and write OUT_MODEL.",
    )
    recipe = click.option("--print-recipe", is_flag=True, help="With --onto: print the recipe instead of running it.")
    healing = flags_of(HealAfterOptions, "healing")
    return onto(adapt_flags(but=("missing_rows", "extend"))(healing(recipe(command))))  # one model, extended already


def open_corpus(options: CorpusOptions) -> Corpus:
    """Open the text to learn from.

    Raises:
        TokenAdaptError: a text does not exist, or ``ray:`` is combined with another text or with --max-bytes.
    """
    from mergekit_tokenadapt.supertokens.texts import Corpus
    from mergekit_tokenadapt.texts import parse_text

    places = [parse_text(text) for text in options.texts]
    if not any(text.place.startswith("ray:") for text in places):
        corpus = Corpus(options.texts, options.max_bytes)
        corpus.check()
        return corpus
    from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus

    if len(places) > 1 or options.max_bytes:
        raise TokenAdaptError("--text ray:PATH cannot be combined with another --text or with --max-bytes")
    return RayCorpus.read(places[0].source)


def check_outputs(
    out: str, onto: tuple[str, str] | None, *, force: bool, inputs: Sequence[str], texts: Sequence[str]
) -> bool:
    """Check before the work that the outputs can be written.

    Returns:
        Whether OUT exists and OUT_MODEL does not. The same command may then have been stopped between its two outputs.

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


def check_onto(
    onto: tuple[str, str] | None,
    tokenizer: str,
    adapt: dict[str, Any],
    healing: HealAfterOptions,
    corpus: Corpus,
    *,
    force: bool,
    quiet: bool,
) -> Callable[[Path], None] | None:
    """Check before the learning that the transplant after it can work.

    Args:
        onto: MODEL and OUT_MODEL.
        tokenizer: the folder that the learned tokenizer will be in.
        adapt: options of the transplant.
        healing: minutes and texts.
        corpus: the text to learn from, and to heal on where `healing` names none.
        force: whether OUT_MODEL may be replaced.
        quiet: no progress.

    Returns:
        How to heal what the transplant gives; None without --heal.

    Raises:
        TokenAdaptError: MODEL does not exist, an option of the method is wrong, --heal is given without --onto, or see
            `healing_stage`.
    """
    if onto is None:
        if healing.heal:
            raise TokenAdaptError("--heal goes with --onto: it trains OUT_MODEL")
        return None
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

    config = AdaptConfig.read(adapt)
    model = open_model(onto[0])
    _ = model.tensors.names
    config.make_method().check(len(model.tokenizer.vocabulary))

    def make(folder: str, block: Mapping[str, Any]) -> Path:
        return run_recipe(make_recipe(onto[0], tokenizer, block), folder, merge_options(quiet=quiet))

    return healing_stage(
        healing, *onto, force=force, quiet=quiet, learned_from=corpus, make_untied=untied_maker(adapt, make)
    )


def go_onto(
    onto: tuple[str, str],
    tokenizer: str,
    adapt: dict[str, Any],
    *,
    force: bool,
    quiet: bool,
    print_recipe: bool,
    heal: Callable[[Path], None] | None,
) -> None:
    """Transplant the learned tokenizer onto a model with the recipe that `transplant` would make."""
    from mergekit_tokenadapt.plugin.merge_options import merge_options
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    model, out = onto
    recipe = make_recipe(model, tokenizer, adapt)
    if print_recipe:
        click.echo(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), nl=False)
        return
    listener = report_printer(model, tokenizer)
    folder = run_recipe(recipe, out, merge_options(quiet=quiet), force=force, finish=heal, listener=listener)
    if not quiet:
        say_what_next(folder, model)
