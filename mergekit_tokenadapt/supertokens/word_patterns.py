"""Regular expressions that split text into words, and the pre-tokenizer that is made of one."""

from __future__ import annotations

from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of the ByteLevel pre-tokenizer of `tokenizers` with ``use_regex``."""

DIGITS = {"1": r"\p{N}", "3": r"\p{N}{1,3}", "all": r"\p{N}+"}
"""Value of the option `digits` -> pattern of one piece of digits."""


def word_pattern(digits: str = "3") -> str:
    """Return the default pattern of words. It separates letters, digits, punctuation and white space.

    Line ends and indentation never share a piece with words. Combining marks belong to their letters.

    Args:
        digits: how many digits share a piece: ``1``, ``3`` (up to three) or ``all``.

    Raises:
        TokenAdaptError: `digits` has another value.
    """
    if digits not in DIGITS:
        raise TokenAdaptError(f"digits: take one of {', '.join(DIGITS)}, not {digits!r}")
    words = r"'(?i:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])| ?[\p{L}\p{M}]+"
    return words + "|" + DIGITS[digits] + r"| ?[^\s\p{L}\p{M}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level_split(pattern: str) -> dict[str, Any]:
    """Return the pre-tokenizer that splits with a pattern and spells bytes in GPT-2's alphabet."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level()]}


def _byte_level() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
