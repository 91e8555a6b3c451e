"""Tables that keep every column, and text that is never read as markup."""

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
    """Print a table: the columns `words` hold words, the others numbers. Text is never read as markup."""
    # Not the table's own title, which would be wrapped to the table's width.
    console.print(plain(title, style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        table.add_column(plain(column), justify="left" if n in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    console.print(table)
    console.print()


def plain(text: str, style: str = "", overflow: OverflowMethod = "fold") -> Text:
    """A cell or a line: no markup, and control characters and direction marks visible. Everything printed goes here."""
    return Text(visible_lines(text), style=style, overflow=overflow)


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, no highlighting, wrapped by the terminal only."""
    console.print(plain(line), soft_wrap=True)


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as are needed to tell them apart.

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
    """A share as a percentage.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def signed(value: float, digits: int = 3) -> str:
    """A difference, always with its sign."""
    return f"{value:+.{digits}f}"


def quoted(label: str) -> str:
    """A token's label in quotes, with control characters visible; ``\\xe4`` stays as it is.

    >>> print(quoted("a\\n"), quoted("\\\\xe4"))
    "a\\n" "\\xe4"
    """
    return visible(json.dumps(label, ensure_ascii=False)).replace("\\\\x", "\\x")
