"""The text that heals: passages to train on, and others, of each text, to measure on."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mergekit_tokenadapt.correction.text import DEFAULT, HELD_OUT_EVERY, MANY_PASSAGES, default_sample
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.conversations import ChatSet, Conversation, read_conversations
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.rendering import Renderer, base_text
from mergekit_tokenadapt.texts import TextSet, check_names, halved_to_fit, parse_text, read_text, split_passages

LOG = logging.getLogger(__name__)


LEAST_BYTES = 500
"""A text has to have so many bytes: passages of a few characters teach and measure nothing."""


def read_healing_texts(texts: Sequence[str | os.PathLike[str]], option: str = "--text") -> list[TextSet]:
    """The texts that the options name; Python's own library, and sums, where they name none.

    A jsonl file with ``messages`` in its lines becomes a `ChatSet`.

    Args:
        texts: ``[NAME=]PATH`` each, as ``--text`` takes them.
        option: the option that gave them, for error messages.

    Raises:
        TokenAdaptError: two have one name, one is not there, or holds no text.
    """
    if not texts:
        return [TextSet.of("python", default_sample(), DEFAULT)]
    arguments = [os.fspath(text) for text in texts]
    places = [parse_text(argument, option=option) for argument in arguments]
    check_names([place.name for place in places])
    for place in places:
        place.check(option)
    return [
        read_conversations(place) or read_text(argument, option=option)
        for place, argument in zip(places, arguments, strict=True)
    ]


@dataclass(frozen=True)
class HealingText:
    """Passages, split for good: what is held out is never trained on."""

    training: tuple[str, ...]
    """In random order: any first part of them is a fair sample of all texts."""
    held_out: tuple[TextSet, ...]
    """One for each text, of the same name."""
    held_out_of_base: tuple[TextSet, ...]
    """The same as the base model reads it: conversations are rendered by its own chat template."""
    texts: tuple[dict[str, Any], ...]
    """What the manifest says of each text."""
    has_conversations: bool = False
    """Whether a text holds conversations."""

    @classmethod
    def of(
        cls,
        texts: Sequence[TextSet],
        options: HealOptions,
        renderer: Renderer | None = None,
        most: int | None = None,
    ) -> HealingText:
        """Split the texts, hold passages out, and keep as many of the others as the options allow.

        Args:
            texts: to be split.
            options: see there.
            renderer: renders conversations. None: only to find out whether the texts are long enough.
            most: the most bytes of a passage that the models can read, see `passage_limit`; None for any number.

        Raises:
            TokenAdaptError: a text is too short to hold passages out, or conversations cannot be rendered.
        """
        training: list[str] = []
        held_out, held_out_of_base = [], []
        for text in texts:
            passages = _split(text, options.passage_bytes, renderer, most)
            chosen = _held_out(passages, options.held_out_bytes)
            held_out.append(TextSet(text.name, tuple(map(str, chosen)), text.source))
            held_out_of_base.append(TextSet(text.name, tuple(map(base_text, chosen)), text.source))
            training += [p for n, p in enumerate(passages) if n % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
        random.Random(options.seed).shuffle(training)
        return cls(
            tuple(_limited(training, options.max_bytes)),
            tuple(held_out),
            tuple(held_out_of_base),
            tuple(text.describe() for text in texts),
            any(isinstance(text, ChatSet) for text in texts),
        )

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the passages to train on."""
        return sum(len(passage.encode("utf-8")) for passage in self.training)

    @property
    def sha256(self) -> str:
        """Hash of all passages, in their order."""
        digest = hashlib.sha256()
        held_out = [p for texts in (self.held_out, self.held_out_of_base) for text in texts for p in text.documents]
        for passage in (*self.training, *map(base_text, self.training), *held_out):
            digest.update(passage.encode("utf-8") + b"\0")
        return digest.hexdigest()


def _split(text: TextSet, longest: int, renderer: Renderer | None, most: int | None) -> list[str]:
    left_out: list[str] = []
    if isinstance(text, ChatSet):
        passages, left_out = _rendered(text, longest, renderer, most)
    else:
        longest = min(longest, 1 + text.num_bytes // MANY_PASSAGES)
        split = (p for document in text.documents for p in split_passages(document, longest))
        passages = [p for p in halved_to_fit(split, most) if p.strip()]
    if isinstance(text, ChatSet) and len(passages) < HELD_OUT_EVERY <= len(text.documents):
        raise TokenAdaptError(
            f"the text {text.name}: {text.source!r} has {len(text.documents)} conversations, and {len(passages)} of "
            f"them can be used, where {HELD_OUT_EVERY} are needed: {'; '.join(left_out)}"
        )
    if renderer is not None:
        for reason in left_out:
            LOG.warning("the text %s: %s", text.name, reason)
    if len(passages) < HELD_OUT_EVERY or text.num_bytes < LEAST_BYTES:
        raise TokenAdaptError(
            f"the text {text.name}: {text.source!r} is too short to learn from and to measure on: it has "
            f"{text.num_bytes:,} bytes in {len(passages)} passages, and {LEAST_BYTES} bytes in {HELD_OUT_EVERY} "
            "passages are needed"
        )
    return passages


def _rendered(text: ChatSet, longest: int, renderer: Renderer | None, most: int | None) -> tuple[list[str], list[str]]:
    """A passage for each conversation: its first messages, of `longest` bytes at most.

    Conversations without such messages, those whose messages a chat template changes, and those of more than `most`
    bytes with the template's own text are left out.

    Returns:
        The passages, and a sentence for each reason why conversations were left out.
    """
    longest = longest if most is None else min(longest, most)
    shortened = [_first_messages(conversation, longest) for conversation in text.conversations()]
    fitting = [conversation for conversation in shortened if conversation]
    if renderer is None:
        passages = ["\n".join(message["content"] for message in conversation) for conversation in fitting]
        rendered = passages
    else:
        rendered = [passage for c in fitting if (passage := renderer.render(c)) is not None]
        passages = [passage for passage in rendered if most is None or len(passage.encode("utf-8")) <= most]
    reasons = {
        f"their first message has more than {longest} bytes (--passage-bytes)": len(shortened) - len(fitting),
        "a chat template changes their messages": len(fitting) - len(rendered),
        f"the chat template makes them longer than the {most} bytes that the models can read": len(rendered)
        - len(passages),
    }
    left_out = [f"{n} conversations are left out, because {reason}" for reason, n in reasons.items() if n]
    return passages, left_out


def _first_messages(conversation: Conversation, longest: int) -> Conversation:
    sizes = accumulate(len(message["content"].encode("utf-8")) for message in conversation)
    return [message for message, size in zip(conversation, sizes, strict=True) if size <= longest]


def _held_out(passages: Sequence[str], max_bytes: int) -> list[str]:
    """Evenly spaced ones of those that are held out, about `max_bytes` together."""
    kept = passages[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    total = sum(len(p.encode("utf-8")) for p in kept)
    number = max(1, min(len(kept), round(len(kept) * max_bytes / max(1, total))))
    return [kept[(2 * n + 1) * len(kept) // (2 * number)] for n in range(number)]


def _limited(passages: Sequence[str], max_bytes: int) -> list[str]:
    kept, total = [], 0
    for passage in passages:
        if max_bytes and total >= max_bytes:
            break
        kept.append(passage)
        total += len(passage.encode("utf-8"))
    return kept
