"""The one error class for everything a user can cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from mergekit_tokenadapt.visible import visible


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
    """What another library's exception says, on one line; its type where it says nothing.

    >>> first_line(OSError("no such model\\nsee the documentation")), first_line(KeyboardInterrupt())
    ('no such model', 'KeyboardInterrupt')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
