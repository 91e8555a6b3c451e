"""Passages that teach copying: random new tokens in a line, and the same line again.

A base model copies names from its context: where a text repeats a word, it predicts the word from its first place. It
has to learn to do so for tokens whose rows are new, and these passages have many of them.
"""

from __future__ import annotations

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


def with_copies(passages: Sequence[str], words: Sequence[str], share: float, seed: int) -> list[str]:
    """The passages, and between them so many passages that teach copying.

    Args:
        passages: of the user's texts.
        words: what is copied; none: the passages are returned as they are.
        share: bytes of passages that teach copying, for each byte of the others.
        seed: of the choice of words.
    """
    if not words or not share:
        return list(passages)
    made = _made(words, random.Random(seed))
    mixed: list[str] = []
    owed = 0.0
    for passage in passages:
        mixed.append(passage)
        owed += share * len(passage.encode("utf-8"))
        while owed > 0:
            mixed.append(next(made))
            owed -= len(mixed[-1].encode("utf-8"))
    return mixed


def _made(words: Sequence[str], chance: random.Random) -> Iterator[str]:
    while True:
        line = chance.choice(BETWEEN).join(chance.choices(words, k=chance.randint(FEWEST, MOST)))
        yield f"{line}\n{line}\n"


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
