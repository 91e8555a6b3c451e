"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click
import yaml

from mergekit_tokenadapt.cli.types import OUTPUT_DTYPE
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


METAVARS = {
    "rows": "exact|donor|N",
    "token_map": "OLD=NEW",
    "chat_template": "target|base|FILE",
    "calibration_text": "default|[NAME=]PATH",
    "calibration_bytes": "N",
    "missing_rows": "composed|base_model",
}
"""What the help shows for a key's value, where that is not plain text."""


DEFAULTS = {"rows": "exact; BASE's own where it speaks TARGET's tokenizer", "calibration_text": "none"}
"""What the help says of defaults that are None."""


def option_of(key: str) -> Callable[[CommandT], CommandT]:
    """The flag of one key of the ``adapt`` block: name, meaning and default are those of the recipe.

    Values stay text: `AdaptConfig` reads them as it reads a recipe's.
    """
    field = AdaptConfig.model_fields[key]
    flag, told = key.replace("_", "-"), str(field.description)
    help_text = f"{told[:1].upper()}{told[1:]}."
    if field.annotation is bool:
        default = flag if field.default else f"no-{flag}"
        return click.option(f"--{flag}/--no-{flag}", default=None, help=f"{help_text}  [default: {default}]")
    if key == "token_map":
        return click.option(f"--{flag}", multiple=True, metavar=METAVARS[key], help=f"{help_text} Repeatable.")
    if key in ALWAYS:
        return click.option(f"--{flag}", default=field.default, show_default=True, help=help_text)
    default = DEFAULTS.get(key, field.default)
    return click.option(f"--{flag}", metavar=METAVARS.get(key), help=f"{help_text}  [default: {default}]")


ALWAYS = ("method", "auxiliary")
"""Keys that every recipe made of flags holds, so that it says what it does."""
METHOD_OPTION = click.option(
    "-O",
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the method, see `mergekit-tokenadapt methods`. Repeatable.",
)


def adapt_options(command: CommandT) -> CommandT:
    """``--method``, ``--auxiliary``, ``--option`` and ``--token-map``: the keys of the ``adapt`` block."""
    for option in (option_of("token_map"), METHOD_OPTION, option_of("auxiliary"), option_of("method")):
        command = option(command)
    return command


def every_adapt_option(command: CommandT) -> CommandT:
    """A flag for every key of the ``adapt`` block; the command gets the block, checked, as `adapt`."""

    @wraps(command)
    def with_block(*args: Any, **flags: Any) -> Any:
        given = {key: flags.pop(key) for key in ("options", *AdaptConfig.model_fields)}
        return command(*args, adapt=adapt_block(**given), **flags)

    decorated: Any = with_block
    for key in reversed(AdaptConfig.model_fields):
        decorated = option_of(key)(decorated)
        if key == "auxiliary":
            decorated = METHOD_OPTION(decorated)
    return cast(CommandT, decorated)


def folder_options(command: CommandT) -> CommandT:
    """``--pad-to-multiple-of`` and ``--dtype``: keys of a recipe beside the ``adapt`` block."""
    pad = click.option("--pad-to-multiple-of", type=click.IntRange(min=1), help="Round the number of rows up.")
    dtype = click.option("--dtype", type=OUTPUT_DTYPE, help="Of the output.  [default: as BASE]")
    return pad(dtype(command))


class Positional(click.Argument):
    """An argument that mergekit's help gives no empty line of its own: the usage and the summary say what it is."""

    def get_help_record(self, ctx: click.Context) -> Any:
        """Nothing."""
        return None


def output_argument(command: CommandT) -> CommandT:
    """The folder to be made, as ``out``: the last argument, or ``-o``."""

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
    option = click.option("-o", "--out", "named_out", type=click.Path(file_okay=False), help="OUT, as an option.")
    return cast("CommandT", argument(option(with_out)))


def read_pairs(pairs: tuple[str, ...], option: str, *, typed: bool) -> dict[str, Any]:
    """``KEY=VALUE`` options as a dictionary; `typed` values are read as YAML (``3``, ``0.5``, ``true``).

    The first ``=`` splits, except one at the very start, which belongs to the key.

    >>> read_pairs(("top_k=5",), "--option", typed=True)
    {'top_k': 5}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair[1:].partition("=")
        if not equals:
            raise click.UsageError(f"{option} takes KEY=VALUE, not {pair!r}")
        found[pair[:1] + key] = yaml.safe_load(value) if typed else value
    return found


def adapt_block(
    method: str, auxiliary: str, options: tuple[str, ...], token_map: tuple[str, ...], **more: Any
) -> dict[str, Any]:
    """The ``tokenizer.adapt`` block that the options stand for; `more` keys that are None are left out.

    Raises:
        TokenAdaptError: a key or a value is wrong.
    """
    block: dict[str, Any] = {"method": method, "auxiliary": auxiliary}
    block |= {key: value for key, value in more.items() if value is not None}
    if token_map:
        block["token_map"] = read_pairs(token_map, "--token-map", typed=False)
    block |= read_pairs(options, "--option", typed=True)
    read = AdaptConfig.read(block)
    return {key: getattr(read, key) if key in AdaptConfig.model_fields else block[key] for key in block}
