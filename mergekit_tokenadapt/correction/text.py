"""The text to calibrate on: short passages of whatever the user names, or of Python's own library."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.texts import TextSet, read_text, split_passages

DEFAULT = "default"
"""The name of the sample that every machine has."""
PASSAGE = 2000
"""About how many bytes a passage has: at a token for each, still inside any model's context."""
MANY_PASSAGES = 50
"""A short text is split into shorter passages, so that there are about so many."""
HELD_OUT_EVERY = 10
"""One passage in so many is held out, to judge the correction on."""


@dataclass(frozen=True)
class CalibrationText:
    """Passages, and where they come from."""

    source: str
    """As the user wrote it."""
    passages: tuple[str, ...]

    @classmethod
    def read(cls, source: str, max_bytes: int) -> CalibrationText:
        """Split a text into passages, and keep evenly spaced ones where there are more than `max_bytes`.

        Args:
            source: ``default``, or a file, a folder or a jsonl file as the evaluation takes them
                (``FILE.jsonl,field=NAME`` for a field other than ``text``).
            max_bytes: 0 means all of the text.

        Raises:
            TokenAdaptError: nothing is there, or it holds no text.
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

    def is_held_out(self, place: int) -> bool:
        """Whether a passage is held out: one in ten."""
        return place % HELD_OUT_EVERY == HELD_OUT_EVERY // 2

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        kept = TextSet("text", self.passages, self.source)
        return {
            "source": self.source,
            "passages": len(self.passages),
            "bytes": kept.num_bytes,
            "sha256": kept.sha256,
        }


def _thinned(num_passages: int, num_bytes: int, max_bytes: int) -> list[int]:
    """Places of evenly spaced passages, with about `max_bytes` together; all where there are no more."""
    if not max_bytes or num_bytes <= max_bytes:
        return list(range(num_passages))
    num_kept = max(HELD_OUT_EVERY, int(num_passages * max_bytes / num_bytes))
    return [int(n * num_passages / num_kept) for n in range(min(num_kept, num_passages))]


def default_sample() -> Iterator[str]:
    """English and code, from the source of Python's own library, and sums.

    Every machine has it, and nobody's text has to be shipped. Another Python has another library: the
    manifest holds the sample's hash.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py")):
        yield file.read_text(encoding="utf-8", errors="replace")[: 10 * PASSAGE]
    yield from sums(num_lines=2000)


def sums(num_lines: int) -> Iterator[str]:
    """Sums, differences, products and quotients in so many lines, as one document; the same every time."""
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
