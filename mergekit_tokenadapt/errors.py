"""The one error class for every mistake that a user can cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mergekit_tokenadapt.terminal.visible import visible


class TokenAdaptError(click.ClickException, ValueError):
    """Something in the recipe, the options or the input files is wrong.

    It is a ``ValueError`` for library users. It is also a ``ClickException`` because the stock
    mergekit commands are click commands: raised below one of them, click prints the message as one
    line and exits with code 2, where any other exception would end in a traceback.
    """

    exit_code = 2

    def __str__(self) -> str:
        return self.message

    def format_message(self) -> str:
        """Return the line that click prints. Invisible characters in names of tokens and files are escaped."""
        return visible(self.message)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's exception that gives a reason.

    Many libraries put a heading, an HTTP status or a whole config before the reason; those lines are skipped. An
    exception without a message gives the name of its class.

    >>> first_line(OSError("no such model\\nsee the documentation")), first_line(KeyboardInterrupt())
    ('no such model', 'KeyboardInterrupt')
    >>> first_line(RuntimeError("Error(s) in loading:\\n\\tsize mismatch for lm_head.weight"))
    'size mismatch for lm_head.weight'
    """
    text = _DUMP.sub("{...}", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return lines[0] if lines else type(error).__name__
    # A line such as "ValueError: ..." is the underlying error, or the end of a traceback from another process.
    # The last such line is the most exact one.
    causes = [line for line in lines[1:] if _CAUSE.match(line)]
    if causes:
        return causes[-1]
    if _COUNT.match(lines[0]) and len(lines) > 2:  # pydantic writes the field on one line and the reason on the next
        return f"{lines[1]}: {lines[2]}"
    told = [line for line in lines if not _NO_REASON.search(line)]
    return told[0] if told else lines[0]


_DUMP = re.compile(r"\{\n.*?\n\}\n*", re.DOTALL)
"""Matches a whole config inside a message (``Config LlamaConfig {...} has no attribute x``)."""
_CAUSE = re.compile(r"([\w.]+(Error|Exception)|\w+ error): \S")
_COUNT = re.compile(r"\d+ validation errors? for ")
_NO_REASON = re.compile(r":$|^\d{3} (Client|Server) Error|^\(\d+\) |^Traceback |^File \"|^Weights only load failed")
"""Matches lines that give no reason: headings, HTTP statuses of the hub, numbered list items, lines of a traceback."""


@contextmanager
def one_error(what: str) -> Iterator[None]:
    """Turn any exception of the ``with`` block into a `TokenAdaptError` whose message starts with `what`.

    Use it around library calls that read a user's file. `tokenizers` raises plain ``Exception``. When its Rust code
    panics, it raises a ``PanicException``, which is a ``BaseException`` but no ``Exception``.

    Raises:
        TokenAdaptError: the block raised an exception. ``KeyboardInterrupt`` and ``SystemExit`` pass unchanged.
    """
    try:
        yield
    except TokenAdaptError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            kind = "" if type(error) is Exception else f"{type(error).__name__}: "
            raise TokenAdaptError(f"{what}: {kind}{first_line(error)}") from error
        raise
