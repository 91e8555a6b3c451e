"""The one error class for everything a user can cause."""

import click


class TokenAdaptError(click.ClickException, ValueError):
    """Something in the recipe, the options or the input files is wrong.

    It is a ``ValueError`` for library users. It is also a ``ClickException`` because the stock
    mergekit commands are click commands: raised below one of them, click prints the message as one
    line and exits with code 2, where any other exception would end in a traceback.
    """

    exit_code = 2

    def __str__(self) -> str:
        return self.message


def first_line(error: BaseException) -> str:
    """What another library's exception says, on one line; its type where it says nothing.

    >>> first_line(OSError("no such model\\nsee the documentation")), first_line(KeyboardInterrupt())
    ('no such model', 'KeyboardInterrupt')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
