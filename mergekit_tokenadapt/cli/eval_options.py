"""Options that several evaluation commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mergekit_tokenadapt.errors import TokenAdaptError

if TYPE_CHECKING:
    from mergekit_tokenadapt.evaluation.texts import TextSet

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def text_options(*, max_bytes: int) -> Callable[[CommandT], CommandT]:
    """``--text``, ``--builtin`` and ``--max-bytes`` (with this default): what is scored."""

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(_text_options(max_bytes)):
            command = option(command)
        return command

    return decorate


def _text_options(max_bytes: int) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--text",
            "texts",
            multiple=True,
            metavar="NAME=PATH",
            help="A file, a folder, .jsonl (,field=NAME), or hf:ID (,config=NAME ,split=NAME). Repeatable.",
        ),
        click.option("--builtin", multiple=True, metavar="NAME", help="A built-in text: en, code, ... Repeatable."),
        click.option(
            "--max-bytes",
            type=click.IntRange(min=0),
            default=max_bytes,
            show_default=True,
            help="Bytes of each text, in whole documents; 0 for all.",
        ),
    ]


def read_texts(texts: tuple[str, ...], builtin: tuple[str, ...], max_bytes: int) -> list[TextSet]:
    """The texts that the options name; all built-in ones where they name none."""
    from mergekit_tokenadapt.evaluation.texts import BUILTIN, builtin_text, read_text

    names = builtin or (() if texts else tuple(BUILTIN))
    sets = [builtin_text(name) for name in names] + [read_text(argument) for argument in texts]
    return [text.limited(max_bytes) for text in sets]


def check_page(html: Path | None) -> None:
    """Find out before the scoring, not after it, that the page cannot be written.

    Raises:
        TokenAdaptError: its folder is not there.
    """
    if html is not None and not html.parent.is_dir():
        raise TokenAdaptError(f"--html {str(html)!r}: there is no folder {str(html.parent)!r}")
