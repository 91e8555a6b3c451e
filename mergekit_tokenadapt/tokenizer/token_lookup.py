"""Find the token that a user names by text, spelling or id, and suggest similar tokens if there is none."""

from __future__ import annotations

import json
from difflib import get_close_matches

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.tables import quoted
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, Vocabulary

OFFERED = 5
"""Largest number of similar tokens in a message."""
MAX_PIECES = 8
"""Largest number of pieces of an unknown text in a message."""


def find_token(tokenizer: TokenizerFiles, text: str) -> Token:
    """Find a token, special ones included, by its text, its spelling, or the escaped form that `explain` prints.

    Examples of the escaped form are ``a\\\\n`` and ``\\\\xe4``.

    Raises:
        TokenAdaptError: there is no such token. The message gives the segmentation of the text and similar tokens.
    """
    vocabulary = tokenizer.vocabulary
    token = lookup(vocabulary, text)
    if token is None:
        raise TokenAdaptError(
            f"{text!r} is not one token of {tokenizer.name!r}{_segmentation(tokenizer, text)}{_near(vocabulary, text)}"
        )
    return token


def lookup(vocabulary: Vocabulary, text: str) -> Token | None:
    """Return the token that `find_token` finds; None if there is none."""
    token = vocabulary.find(text)
    return _find_escaped(vocabulary, text) if token is None and "\\" in text else token


def find_id(tokenizer: TokenizerFiles, token_id: int, num_rows: int) -> Token | None:
    """Return the token of an id; None for an id without a token (a padding row).

    Args:
        tokenizer: the target tokenizer.
        token_id: the id.
        num_rows: number of rows of the output.

    Raises:
        TokenAdaptError: the id is not between 0 and `num_rows` - 1.
    """
    if not 0 <= token_id < num_rows:
        raise TokenAdaptError(f"id {token_id}: the output has the rows 0 to {num_rows - 1}")
    return tokenizer.vocabulary.by_id.get(token_id)


def _find_escaped(vocabulary: Vocabulary, text: str) -> Token | None:
    """Find a token by its printed form: bytes of a split character as ``\\xe4``, control characters as in JSON."""
    parts = (t for t in vocabulary if t.text is None)
    printed = next((t for t in parts if text in (t.label, quoted(t.label)[1:-1])), None)
    if printed is not None:
        return printed
    try:
        return vocabulary.find(str(json.loads(f'"{text}"')))
    except ValueError:
        return None


def _segmentation(tokenizer: TokenizerFiles, text: str) -> str:
    ids = tokenizer.fast_tokenizer().encode(text, add_special_tokens=False).ids
    by_id = tokenizer.vocabulary.by_id
    pieces = [quoted(by_id[i].label) for i in ids[:MAX_PIECES] if i in by_id]
    more = f" and {len(ids) - MAX_PIECES} more" if len(ids) > MAX_PIECES else ""
    return f": it is segmented into {' '.join(pieces)}{more}" if pieces else ""


def _near(vocabulary: Vocabulary, text: str) -> str:
    found = nearest_tokens(vocabulary, text)
    return f"; did you mean {', '.join(quoted(t.label) for t in found)}?" if found else ""


def nearest_tokens(vocabulary: Vocabulary, text: str) -> list[Token]:
    """Return at most `OFFERED` tokens similar to a text.

    These are the tokens that differ from it only in white space or case. If there are none, they are tokens of similar
    spelling.
    """
    wanted = _plain(text)
    alike: dict[str, list[Token]] = {}
    for token in vocabulary:
        key = _plain(token.label)
        # `get_close_matches` is slow on a whole vocabulary, so only plausible tokens are compared.
        if key[:1] == wanted[:1] and abs(len(key) - len(wanted)) <= max(2, len(wanted) // 3):
            alike.setdefault(key, []).append(token)
    keys = [wanted] if wanted in alike else get_close_matches(wanted, list(alike), n=OFFERED, cutoff=0.6)
    return [token for key in keys for token in alike[key]][:OFFERED]


def _plain(text: str) -> str:
    return text.strip().casefold()
