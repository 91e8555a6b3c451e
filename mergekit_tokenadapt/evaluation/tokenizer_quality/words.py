"""Measure how many tokens of a language's text are words of that language.

Bayram et al. 2025 (arXiv 2502.07057) define this for Turkish: %TR is the share of distinct tokens that are valid words,
and %Pure is the share that are whole linguistic units. Here %TR is measured for all languages of `wordfreq`, and %Pure
for any list of words or morphemes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.tokenizer.text_measures import UNSPACED
from mergekit_tokenadapt.tokenizer.vocabulary import Token


def known_languages() -> list[str]:
    """Return the codes of the languages that wordfreq has word lists for, sorted.

    Raises:
        TokenAdaptError: wordfreq is not installed or cannot be imported.
    """
    with importing("wordfreq", extra="words", wanted_by="the share of words among the tokens"):
        import wordfreq
    return sorted(wordfreq.available_languages())


def words_of(language: str) -> frozenset[str]:
    """Return the words that occur at least once in a million words of a language (wordfreq's small list), case folded.

    The larger lists have so many letters, fragments and foreign words that they cannot tell a word from a piece.

    Raises:
        TokenAdaptError: wordfreq is not installed or cannot be imported, or it does not know the language.
    """
    if language not in known_languages():
        raise TokenAdaptError(f"wordfreq has no words of {language!r}; it has {', '.join(known_languages())}")
    import wordfreq

    return frozenset(word.casefold() for word in wordfreq.get_frequency_dict(language, wordlist="small"))


def read_units(file: Path) -> frozenset[str]:
    """Read words or morphemes from a file with one on each line, case folded. Hyphens as in ``-ler`` are removed.

    Raises:
        TokenAdaptError: the file does not exist, is not UTF-8, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenAdaptError(f"the word list {str(file)!r} cannot be read: {error}") from error
    units = frozenset(unit for line in lines if (unit := line.strip().strip("-").casefold()))
    if not units:
        raise TokenAdaptError(f"the word list {str(file)!r} is empty")
    return units


def share_in(tokens: Iterable[Token], units: Collection[str]) -> float:
    """Return the share of tokens whose text is one of the units, without spaces around it and case folded.

    Tokens without a letter (punctuation, numbers) are left out. Parts of characters count as no unit. Single letters
    count as no unit either, because every list contains all letters of its alphabet, except in scripts in which one
    character can be a word. The share is 0 if no token is left.
    """
    counted = [t for t in tokens if t.text is None or any(c.isalpha() for c in t.text)]
    return sum(_is_unit(t, units) for t in counted) / len(counted) if counted else 0.0


def _is_unit(token: Token, units: Collection[str]) -> bool:
    if token.text is None:
        return False
    text = token.text.strip().casefold()
    return text in units and (len(text) > 1 or unicodedata.name(text, "").startswith(UNSPACED))
