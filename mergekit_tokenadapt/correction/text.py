"""Read the calibration text: short passages of a text that the user names, or of Python's standard library."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.texts import TextSet, halved_to_fit, read_text, split_passages

DEFAULT = "default"
"""The source that names the built-in sample, see `default_sample`."""
PASSAGE = 2000
"""Approximate size of a passage in bytes."""
MANY_PASSAGES = 50
"""A short text is split into shorter passages, so that it has about this many."""
HELD_OUT_EVERY = 10
"""One passage in this many is held out: to choose the strength of the correction, and to measure what is healed."""


@dataclass(frozen=True)
class CalibrationText:
    """The passages of a calibration text."""

    source: str
    """The source as the user wrote it."""
    passages: tuple[str, ...]

    @classmethod
    def read(cls, source: str, max_bytes: int) -> CalibrationText:
        """Split a text into passages. If it has more than `max_bytes`, keep evenly spaced passages.

        Args:
            source: ``default``, or a file, a folder or a jsonl file as the evaluation takes them
                (``FILE.jsonl,field=NAME`` for a field other than ``text``).
            max_bytes: approximate size of the passages together, in UTF-8 bytes; 0 keeps all of the text.

        Raises:
            TokenAdaptError: the source does not exist, holds no text, or is too short.
        """
        if source == DEFAULT:
            documents: Sequence[str] = list(default_sample())
        else:
            documents = read_text(source, option="calibration_text", name="text").documents
        num_bytes = sum(len(d.encode("utf-8")) for d in documents)
        longest = min(PASSAGE, 1 + num_bytes // MANY_PASSAGES)
        passages = [passage for document in documents for passage in split_passages(document, longest)]
        if len(passages) < HELD_OUT_EVERY:
            raise TokenAdaptError(f"calibration_text: {source!r} is too short: there are {len(passages)} passages")
        kept = _thinned(len(passages), sum(len(p.encode("utf-8")) for p in passages), max_bytes)
        return cls(source, tuple(passages[n] for n in kept))

    def fitting(self, most: int | None) -> CalibrationText:
        """Return the text with passages of at most `most` bytes; None for any number. Longer ones are halved."""
        return replace(self, passages=tuple(halved_to_fit(self.passages, most)))

    def is_held_out(self, place: int) -> bool:
        """Return whether the passage with this number is held out. One in `HELD_OUT_EVERY` is."""
        return place % HELD_OUT_EVERY == HELD_OUT_EVERY // 2

    def describe(self) -> dict[str, Any]:
        """Return source, number of passages, bytes and hash, as the manifest states them."""
        kept = TextSet("text", self.passages, self.source)
        return {
            "source": self.source,
            "passages": len(self.passages),
            "bytes": kept.num_bytes,
            "sha256": kept.sha256,
        }


def _thinned(num_passages: int, num_bytes: int, max_bytes: int) -> list[int]:
    """Return the numbers of evenly spaced passages that have about `max_bytes` together; all if they have no more."""
    if not max_bytes or num_bytes <= max_bytes:
        return list(range(num_passages))
    num_kept = max(HELD_OUT_EVERY, int(num_passages * max_bytes / num_bytes))
    return [int(n * num_passages / num_kept) for n in range(min(num_kept, num_passages))]


def default_sample() -> Iterator[str]:
    """Yield the source files of Python's standard library, which hold English and code, and a document of sums.

    Every machine has this text, so none has to be shipped. Another version of Python has another library. The manifest
    therefore holds the hash of the text.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py")):
        yield file.read_text(encoding="utf-8", errors="replace")[: 10 * PASSAGE]
    yield from sums(num_lines=2000)


def sums(num_lines: int) -> Iterator[str]:
    """Yield one document of `num_lines` sums, differences, products and quotients. It is the same every time."""
    generator = random.Random(0)
    lines = []
    for _ in range(num_lines):
        a, b = (generator.randrange(10 ** generator.randint(1, 5)) for _ in range(2))
        forms = (
            f"{a} + {b} = {a + b}",
            f"{a + b} - {a} = {b}",
            f"{a} * {b} = {a * b}",
            f"{a * (b + 1)} / {b + 1} = {a}",
        )
        lines.append(generator.choice(forms))
    yield "\n".join(lines) + "\n"
