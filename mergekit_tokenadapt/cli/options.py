"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, TypeVar, cast

import click

from mergekit_tokenadapt.cli.generated_options import option_of, read_pairs
from mergekit_tokenadapt.cli.types import OUTPUT_DTYPE
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


ALWAYS = ("method", "auxiliary")
"""Keys that every recipe made from flags contains, so that the recipe shows what it does."""
SET_BY_PAIR = ("rows", "save_plan", "missing_rows", "extend", "start_token")
"""Keys of the ``adapt`` block without a flag where a model gets the vocabulary of another model. The other
model sets the tokens, the number of rows and what is before each text, `restore` needs the plan, and there is no
base_model to take missing rows from."""
METHOD_OPTION = click.option(
    "-O",
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the method, see `mergekit-tokenadapt methods`. Repeatable.",
)


def adapt_flags(but: Collection[str] = ()) -> Callable[[CommandT], CommandT]:
    """Return a decorator that gives a command a flag for each key of the ``adapt`` block, and ``--option``.

    The command gets the block, checked, as `adapt`.

    Args:
        but: keys without a flag.
    """
    keys = [key for key in AdaptConfig.model_fields if key not in but]

    def decorate(command: CommandT) -> CommandT:
        @wraps(command)
        def with_block(*args: Any, **flags: Any) -> Any:
            given = {key: flags.pop(key) for key in ("options", *keys)}
            return command(*args, adapt=adapt_block(**given), **flags)

        decorated: Any = with_block
        for key in reversed(keys):
            decorated = option_of(AdaptConfig, key, is_checked=False)(decorated)
            if key == "auxiliary":
                decorated = METHOD_OPTION(decorated)
        return cast(CommandT, decorated)

    return decorate


def folder_options(command: CommandT) -> CommandT:
    """Add ``--pad-to-multiple-of`` and ``--dtype``, which are keys of a recipe outside the ``adapt`` block."""
    pad = click.option(
        "--pad-to-multiple-of", type=click.IntRange(min=1), help="Round the number of rows up to a multiple of this."
    )
    dtype = click.option("--dtype", type=OUTPUT_DTYPE, help="Dtype of the output's weights.  [default: as BASE]")
    return pad(dtype(command))


def refuse_idle(keys: Collection[str], reason: str) -> None:
    """Refuse flags of the present command that the user gave and that would do nothing.

    Args:
        keys: names of the command's parameters.
        reason: the end of the message, after the flag.

    Raises:
        UsageError: one of them was given.
    """
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in keys and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {reason}")


class Positional(click.Argument):
    """An argument without a line of its own in the help, because usage and summary describe it."""

    def get_help_record(self, ctx: click.Context) -> Any:
        """Return None, so that the help has no line for the argument."""
        return None


def output_argument(command: CommandT) -> CommandT:
    """Add the folder to write as the parameter ``out``: the last argument, or ``-o``."""

    @wraps(command)
    def with_out(*args: Any, out: str | None, named_out: str | None, **kwargs: Any) -> Any:
        if out is not None and named_out is not None:
            hint = " (options of the method are given with -O)" if "=" in named_out else ""
            raise click.UsageError(f"OUT is given twice, as {out!r} and as -o {named_out!r}{hint}")
        chosen = out if named_out is None else named_out
        if chosen is None:
            raise click.UsageError("Missing argument 'OUT' (or -o OUT): the folder to be made")
        return command(*args, out=chosen, **kwargs)

    argument = click.argument("out", cls=Positional, type=click.Path(file_okay=False), required=False)
    option = click.option(
        "-o",
        "--out",
        "named_out",
        type=click.Path(file_okay=False),
        help="Folder to write, in place of the argument.  [default: the argument OUT]",
    )
    return cast("CommandT", argument(option(with_out)))


def adapt_block(
    options: tuple[str, ...], token_map: tuple[str, ...], extend: tuple[str, ...] = (), **keys: Any
) -> dict[str, Any]:
    """Return the ``tokenizer.adapt`` block that the flags stand for. Keys that are None are left out.

    Raises:
        TokenAdaptError: a key or a value is wrong.
    """
    block: dict[str, Any] = {key: AdaptConfig.model_fields[key].default for key in ALWAYS}
    block |= {key: value for key, value in keys.items() if value is not None}
    if token_map:
        block["token_map"] = read_pairs(token_map, "--token-map", typed=False, form="OLD=NEW")
    if extend:
        block["extend"] = read_pairs(extend, "--extend", typed=True)
    block |= read_pairs(options, "--option", typed=True)
    read = AdaptConfig.read(block)
    return {key: value for key, value in read.model_dump(exclude_unset=True).items() if key in block}
