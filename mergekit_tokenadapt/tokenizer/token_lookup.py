"""The token that a user means: by text, by spelling, by id; and the nearest ones where there is none."""

from __future__ import annotations

import json
from difflib import get_close_matches

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.tables import quoted
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, Vocabulary

OFFERED = 5
"""Nearest tokens named, at most."""
MAX_PIECES = 8
"""Pieces of an unknown text named, at most."""


def find_token(tokenizer: TokenizerFiles, text: str) -> Token:
    """The token of that text or spelling, special ones included; as `explain` prints it, too (``a\\\\n``, ``\\\\xe4``).

    Raises:
        TokenAdaptError: there is none. The message says how the text is cut, and names the nearest tokens.
    """
    vocabulary = tokenizer.vocabulary
    token = vocabulary.find(text)
    if token is None and "\\" in text:
        token = _find_escaped(vocabulary, text)
    if token is None:
        raise TokenAdaptError(
            f"{text!r} is not one token of {tokenizer.name!r}{_cut(tokenizer, text)}{_near(vocabulary, text)}"
        )
    return token


def find_id(tokenizer: TokenizerFiles, token_id: int, num_rows: int) -> Token | None:
    """The token of an id; None for a row that has no token.

    Raises:
        TokenAdaptError: the output has no such row.
    """
    if not 0 <= token_id < num_rows:
        raise TokenAdaptError(f"id {token_id}: the output has the rows 0 to {num_rows - 1}")
    return tokenizer.vocabulary.by_id.get(token_id)


def _find_escaped(vocabulary: Vocabulary, text: str) -> Token | None:
    """A token by what is printed for it: a part of a character as ``\\xe4``, control characters as in JSON."""
    parts = (t for t in vocabulary if t.text is None)
    printed = next((t for t in parts if text in (t.label, quoted(t.label)[1:-1])), None)
    if printed is not None:
        return printed
    try:
        return vocabulary.find(str(json.loads(f'"{text}"')))
    except ValueError:
        return None


def _cut(tokenizer: TokenizerFiles, text: str) -> str:
    ids = tokenizer.fast_tokenizer().encode(text, add_special_tokens=False).ids
    by_id = tokenizer.vocabulary.by_id
    pieces = [quoted(by_id[i].label) for i in ids[:MAX_PIECES] if i in by_id]
    more = f" and {len(ids) - MAX_PIECES} more" if len(ids) > MAX_PIECES else ""
    return f": it is cut into {' '.join(pieces)}{more}" if pieces else ""


def _near(vocabulary: Vocabulary, text: str) -> str:
    found = nearest_tokens(vocabulary, text)
    return f"; did you mean {', '.join(quoted(t.label) for t in found)}?" if found else ""


def nearest_tokens(vocabulary: Vocabulary, text: str) -> list[Token]:
    """Tokens that differ from the text in white space or capitals only, then those of a similar spelling."""
    wanted = _plain(text)
    alike: dict[str, list[Token]] = {}
    for token in vocabulary:
        key = _plain(token.label)
        if key[:1] == wanted[:1] and abs(len(key) - len(wanted)) <= max(2, len(wanted) // 3):
            alike.setdefault(key, []).append(token)
    keys = [wanted] if wanted in alike else get_close_matches(wanted, list(alike), n=OFFERED, cutoff=0.6)
    return [token for key in keys for token in alike[key]][:OFFERED]


def _plain(text: str) -> str:
    return text.strip().casefold()
