"""The lines of a file of the user's, with their numbers for messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mergekit_tokenadapt.errors import TokenAdaptError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(content: bytes, not_utf8: Callable[[int, int], str]) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line, without the byte order mark and the ends of lines.

    Only line feeds end a line: ``str.splitlines`` would also split at characters such as U+2028.

    Args:
        content: of the file.
        not_utf8: gets the number of a line that is not UTF-8, and the place of the byte in it, both from 1; returns the
            message.

    Raises:
        TokenAdaptError: a line is not UTF-8.
    """
    for number, line in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenAdaptError(not_utf8(number, error.start + 1)) from error
        yield number, text
