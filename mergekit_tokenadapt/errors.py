"""The one error class for everything a user can cause."""

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
        """What click prints: on one line, with what is not seen in the names of tokens and files escaped."""
        return visible(self.message)


def first_line(error: BaseException) -> str:
    """The first line of another library's exception that gives a reason; its type where it says nothing.

    Many libraries put a heading, a status or a whole config before it.

    >>> first_line(OSError("no such model\\nsee the documentation")), first_line(KeyboardInterrupt())
    ('no such model', 'KeyboardInterrupt')
    >>> first_line(RuntimeError("Error(s) in loading:\\n\\tsize mismatch for lm_head.weight"))
    'size mismatch for lm_head.weight'
    """
    text = _DUMP.sub("{...}", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return lines[0] if lines else type(error).__name__
    # The error below this one, or the last line of another process's traceback: it is the most exact.
    causes = [line for line in lines[1:] if _CAUSE.match(line)]
    if causes:
        return causes[-1]
    if _COUNT.match(lines[0]) and len(lines) > 2:  # pydantic: where on one line, what on the next
        return f"{lines[1]}: {lines[2]}"
    told = [line for line in lines if not _NO_REASON.search(line)]
    return told[0] if told else lines[0]


_DUMP = re.compile(r"\{\n.*?\n\}\n*", re.DOTALL)
"""A config written out (``Config LlamaConfig {...} has no attribute x``)."""
_CAUSE = re.compile(r"([\w.]+(Error|Exception)|\w+ error): \S")
_COUNT = re.compile(r"\d+ validation errors? for ")
_NO_REASON = re.compile(r":$|^\d{3} (Client|Server) Error|^\(\d+\) |^Traceback |^File \"|^Weights only load failed")
"""A heading, a status of the hub, an item of a list that the heading is for, a place in a program."""


@contextmanager
def one_error(what: str) -> Iterator[None]:
    """Turn whatever a strange file makes the code below raise into one line that starts with `what`.

    The `tokenizers` library raises plain ``Exception``; where its Rust code panics, even something that is none.

    Raises:
        TokenAdaptError: something was raised.
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
