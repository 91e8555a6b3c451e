"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import yaml

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def adapt_options(command: CommandT) -> CommandT:
    """``--method``, ``--auxiliary``, ``--option`` and ``--token-map``: the keys of the ``adapt`` block."""
    for option in reversed(
        (
            click.option("--method", default="calibrated", show_default=True, help="How rows of new tokens are made."),
            click.option(
                "--auxiliary",
                default="ngram",
                show_default=True,
                help="Embedding space: ngram, a folder, or a hub id such as sentence-transformers/all-MiniLM-L6-v2.",
            ),
            click.option(
                "-o",
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Option of the method, see `mergekit-tokenadapt methods`. Repeatable.",
            ),
            click.option(
                "--token-map",
                multiple=True,
                metavar="OLD=NEW",
                help="The special target token NEW gets the row of OLD; NEW=TEXT makes it from a text. Repeatable.",
            ),
        )
    ):
        command = option(command)
    return command


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
    from mergekit_tokenadapt.adapt_config import AdaptConfig

    block: dict[str, Any] = {"method": method, "auxiliary": auxiliary}
    block |= {key: value for key, value in more.items() if value is not None}
    if token_map:
        block["token_map"] = read_pairs(token_map, "--token-map", typed=False)
    block |= read_pairs(options, "--option", typed=True)
    AdaptConfig.read(block)
    return block
