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
