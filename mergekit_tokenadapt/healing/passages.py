"""The text that heals: passages to train on, and others, of each text, to measure on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_tokenadapt.correction.text import default_sample
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.texts import TextSet, check_names, parse_text, read_text, split_passages

HELD_OUT_EVERY = 10
"""One passage of each text in so many is held out."""
MANY_PASSAGES = 50
"""A short text is split into shorter passages, so that there are about so many."""


DEFAULT = "default"
"""The source of the text that every machine has."""


def read_healing_texts(texts: Sequence[str]) -> list[TextSet]:
    """The texts that the options name; Python's own library, and sums, where they name none.

    Args:
        texts: ``[NAME=]PATH`` each, as ``--text`` takes them.

    Raises:
        TokenAdaptError: two have one name, one is not there, or holds no text.
    """
    if not texts:
        return [TextSet.of("python", default_sample(), DEFAULT)]
    places = [parse_text(argument) for argument in texts]
    check_names([place.name for place in places])
    for place in places:
        place.check("--text")
    return [read_text(argument) for argument in texts]


@dataclass(frozen=True)
class HealingText:
    """Passages, split for good: what is held out is never trained on."""

    training: tuple[str, ...]
    """In random order: any first part of them is a fair sample of all texts."""
    held_out: tuple[TextSet, ...]
    """One for each text, of the same name."""
    texts: tuple[dict[str, Any], ...]
    """What the manifest says of each text."""

    @classmethod
    def of(cls, texts: Sequence[TextSet], options: HealOptions) -> HealingText:
        """Split the texts, hold passages out, and keep as many of the others as the options allow.

        Raises:
            TokenAdaptError: a text is too short to hold passages out.
        """
        training: list[str] = []
        held_out = []
        for text in texts:
            passages = _split(text, options.passage_bytes)
            held_out.append(_held_out(text, passages, options.held_out_bytes))
            training += [p for n, p in enumerate(passages) if n % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
        random.Random(options.seed).shuffle(training)
        return cls(
            tuple(_limited(training, options.max_bytes)), tuple(held_out), tuple(text.describe() for text in texts)
        )

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the passages to train on."""
        return sum(len(passage.encode("utf-8")) for passage in self.training)

    @property
    def sha256(self) -> str:
        """Hash of all passages, in their order."""
        digest = hashlib.sha256()
        for passage in (*self.training, *(p for text in self.held_out for p in text.documents)):
            digest.update(passage.encode("utf-8") + b"\0")
        return digest.hexdigest()


def _split(text: TextSet, longest: int) -> list[str]:
    longest = min(longest, 1 + text.num_bytes // MANY_PASSAGES)
    passages = [p for document in text.documents for p in split_passages(document, longest) if p.strip()]
    if len(passages) < HELD_OUT_EVERY:
        raise TokenAdaptError(
            f"--text {text.name}: {text.source!r} is too short to learn from and to measure on: it has "
            f"{text.num_bytes:,} bytes in {len(passages)} passages, and {HELD_OUT_EVERY} are needed"
        )
    return passages


def _held_out(text: TextSet, passages: Sequence[str], max_bytes: int) -> TextSet:
    """Evenly spaced ones of those that are held out, about `max_bytes` together."""
    kept = passages[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    total = sum(len(p.encode("utf-8")) for p in kept)
    number = max(1, min(len(kept), round(len(kept) * max_bytes / max(1, total))))
    chosen = [kept[(2 * n + 1) * len(kept) // (2 * number)] for n in range(number)]
    return TextSet(text.name, tuple(chosen), text.source)


def _limited(passages: Sequence[str], max_bytes: int) -> list[str]:
    kept, total = [], 0
    for passage in passages:
        if max_bytes and total >= max_bytes:
            break
        kept.append(passage)
        total += len(passage.encode("utf-8"))
    return kept
