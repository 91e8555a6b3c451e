"""Are the tokens of a language's text words of that language?

Bayram et al. 2025 (arXiv 2502.07057) ask it of Turkish: %TR, the share of the distinct tokens that are
valid words, and %Pure, the share that are whole linguistic units. Here for all languages of `wordfreq`,
and for any list of words or morphemes.
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
    """Codes of the languages that there are word lists for, sorted.

    Raises:
        TokenAdaptError: wordfreq is not installed or does not work.
    """
    with importing("wordfreq", extra="words", wanted_by="the share of words among the tokens"):
        import wordfreq
    return sorted(wordfreq.available_languages())


def words_of(language: str) -> frozenset[str]:
    """The words that a language uses at least once in a million (wordfreq's small list), case folded.

    The longer lists hold too many letters, fragments and foreign words to tell a word from a piece.

    Raises:
        TokenAdaptError: wordfreq is not installed or does not work, or it does not know the language.
    """
    if language not in known_languages():
        raise TokenAdaptError(f"wordfreq has no words of {language!r}; it has {', '.join(known_languages())}")
    import wordfreq

    return frozenset(word.casefold() for word in wordfreq.get_frequency_dict(language, wordlist="small"))


def read_units(file: Path) -> frozenset[str]:
    """Words or morphemes, one a line, case folded; marks such as ``-ler`` lose their hyphens.

    Raises:
        TokenAdaptError: the file is not there, not UTF-8, or empty.
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
    """Share of the tokens whose text, without spaces around it and case folded, is one of the units.

    Tokens without a letter are not counted: of punctuation and numbers nothing is asked. Parts of
    characters count as no unit, and so do single letters (every alphabet's letters are in every list),
    except of scripts in which one character can be a word. 0 where no token counts.
    """
    counted = [t for t in tokens if t.text is None or any(c.isalpha() for c in t.text)]
    return sum(_is_unit(t, units) for t in counted) / len(counted) if counted else 0.0


def _is_unit(token: Token, units: Collection[str]) -> bool:
    if token.text is None:
        return False
    text = token.text.strip().casefold()
    return text in units and (len(text) > 1 or unicodedata.name(text, "").startswith(UNSPACED))
