"""Printing with rich: tables that keep every column, and text that rich does not read as markup."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

from mergekit_tokenadapt.terminal.visible import visible, visible_lines


def add_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Sequence[int] = (0,),
) -> None:
    """Print a table with a title.

    Args:
        console: where to print.
        title: the line above the table.
        columns: the headings.
        rows: the cells, as text. rich does not read them as markup.
        words: indices of the columns that hold words and are left-aligned. All others are right-aligned.
    """
    # rich would wrap a title of the table itself to the table's width.
    console.print(plain(title, style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        table.add_column(plain(column), justify="left" if n in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    console.print(table)
    console.print()


def plain(text: str, style: str = "", overflow: OverflowMethod = "fold") -> Text:
    """Return text for rich without markup. Control characters and direction marks are escaped.

    Every cell and line that we print with rich goes through this function.

    Args:
        text: the text.
        style: a rich style such as ``bold``.
        overflow: what rich does with a cell that is too long.
    """
    return Text(visible_lines(text), style=style, overflow=overflow)


def say(console: Console, line: str) -> None:
    """Print a line without markup and highlighting. Only the terminal wraps it."""
    console.print(plain(line), soft_wrap=True)


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten paths to their last parts, with as many parts as are needed to tell the paths apart.

    >>> short_names(["./a/out", "./b/out", "./base"])
    ['a/out', 'b/out', 'base']
    """
    parts = [[p for p in name.rstrip("/").split("/") if p not in ("", ".")] or [name] for name in names]
    shown = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        shown.append("/".join(own[-length:]))
    return shown


def percent(share: float) -> str:
    """Format a share between 0 and 1 as a percentage.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign, ``+`` included."""
    return f"{value:+.{digits}f}"


def quoted(label: str) -> str:
    """Put a token's label in quotes and escape control characters. A byte such as ``\\xe4`` keeps one backslash.

    >>> print(quoted("a\\n"), quoted("\\\\xe4"))
    "a\\n" "\\xe4"
    """
    return visible(json.dumps(label, ensure_ascii=False)).replace("\\\\x", "\\x")
