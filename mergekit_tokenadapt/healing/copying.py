"""Passages that teach copying: random new tokens in a line, and the same line again.

A base model copies names from its context: where a text repeats a word, it predicts the word from its first place. It
has to learn to do so for tokens whose rows are new, and these passages have many of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import VocabularyMap

FEWEST, MOST = 12, 24
"""Tokens in a line."""
BETWEEN = (" | ", ", ", " ", "\n")
"""What stands between two tokens; one of these in a passage."""


def new_words(vocabulary: Vocabulary, mapping: VocabularyMap) -> list[str]:
    """The texts of the tokens whose rows were not copied, in the order of their ids, without spaces around them."""
    words = []
    for token in vocabulary:
        if mapping.sources[token.id] < 0 and token.kind is not TokenKind.SPECIAL:
            word = _text(token.bytes)
            if word and "\n" not in word:
                words.append(word)
    return words


def with_copies(
    passages: Sequence[str], words: Sequence[str], share: float, seed: int, most: int | None = None
) -> list[str]:
    """The passages, and between them so many passages that teach copying.

    Args:
        passages: of the user's texts.
        words: what is copied; none: the passages are returned as they are.
        share: bytes of passages that teach copying, for each byte of the others.
        seed: of the choice of words.
        most: the most bytes of a passage that the models can read; None for any number. Words that leave no room for
            a passage are not copied.
    """
    # A passage is a line and its copy, each with a line end.
    longest_line = math.inf if most is None else most // 2 - 1
    words = [word for word in words if _size(word) <= longest_line]
    if not words or not share:
        return list(passages)
    made = _made(words, random.Random(seed), longest_line)
    mixed: list[str] = []
    owed = 0.0
    for passage in passages:
        mixed.append(passage)
        owed += share * _size(passage)
        while owed > 0:
            mixed.append(next(made))
            owed -= _size(mixed[-1])
    return mixed


def _made(words: Sequence[str], chance: random.Random, longest_line: float) -> Iterator[str]:
    while True:
        between = chance.choice(BETWEEN)
        chosen = chance.choices(words, k=chance.randint(FEWEST, MOST))
        while _size(between.join(chosen)) > longest_line:
            chosen.pop()
        line = between.join(chosen)
        yield f"{line}\n{line}\n"


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
