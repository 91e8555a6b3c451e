"""Text of tokens and names as a terminal should get it: nothing in it moves the cursor, or turns the line around."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of what is not seen itself: control, format (direction marks among it), halves of
surrogate pairs, ends of lines and paragraphs."""


class _Table(dict[int, str]):
    """For `str.translate`: what each character is written as, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = json.dumps(character)[1:-1] if unicodedata.category(character) in HIDDEN else character
        return self[code]


_TABLE = _Table()


def visible(text: str) -> str:
    r"""A text with the characters that are not seen written as JSON writes them.

    >>> print(visible("a" + chr(0x202E) + chr(0x1B) + "[31m" + chr(0x9B) + "é"))
    a\u202e\u001b[31m\u009bé
    """
    return text.translate(_TABLE)


def visible_lines(text: str) -> str:
    """The same, but lines stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def json_text(content: Any) -> str:
    """Indented JSON for people and programs: what is not seen is escaped, all else stands as it is.

    >>> json.loads(json_text({"a": chr(0x202E)})) == {"a": chr(0x202E)}
    True
    """
    return visible_lines(json.dumps(content, indent=2, ensure_ascii=False))
