"""Escape invisible characters in tokens and names, so that they cannot move the cursor or reverse a line."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of invisible characters: control characters, format characters (with direction marks),
surrogates, line separators and paragraph separators."""


class _Table(dict[int, str]):
    """A table for `str.translate` that computes an entry when a character first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = json.dumps(character)[1:-1] if unicodedata.category(character) in HIDDEN else character
        return self[code]


_TABLE = _Table()


def visible(text: str) -> str:
    r"""Write the invisible characters of a text as JSON escapes.

    >>> print(visible("a" + chr(0x202E) + chr(0x1B) + "[31m" + chr(0x9B) + "é"))
    a\u202e\u001b[31m\u009bé
    """
    return text.translate(_TABLE)


def visible_lines(text: str) -> str:
    """Do the same as `visible`, but keep the line breaks of the text."""
    return "\n".join(map(visible, text.split("\n")))


def json_text(content: Any) -> str:
    """Return indented JSON in which invisible characters are escaped. All other characters stay readable.

    >>> json.loads(json_text({"a": chr(0x202E)})) == {"a": chr(0x202E)}
    True
    """
    return visible_lines(json.dumps(content, indent=2, ensure_ascii=False))
