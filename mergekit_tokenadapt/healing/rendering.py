"""Conversations as two models read them: each by its own chat template.

The two renderings hold the same messages, in different frames: what a template writes before, between and behind
messages. To compare tokens, both renderings get positions on one scale:

- A byte of a message counts as one.
- Frames that are equal but for the spelling of special tokens are compared in detail. A special token counts as one.
- Of other frames, only the first token is compared, where it is a special token of the base: it ends a message. It
  counts as one, and the tokens after it as nothing: they have no counterpart. A frame that only one template has counts
  as nothing, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.healing.conversations import Conversation
from mergekit_tokenadapt.tokenizer.alignment import Encoded
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

MARK = "\ue000{}\ue001"
"""Stands for the content of a message where a template is asked for its frames; characters that no text has."""


class ChatPassage(str):
    """A conversation as the new model reads it, which knows how the base model reads it."""

    old: str
    """As the base model reads it."""
    scales: tuple[np.ndarray, np.ndarray]
    """For the base's and for this rendering, int64 [bytes + 1]: the position of each byte on the common scale."""

    @classmethod
    def of(cls, old: Sequence[Part], new: Sequence[Part]) -> ChatPassage:
        """Put two renderings on one scale.

        Args:
            old: the parts of the base's rendering: frames and messages in turn, a frame first and last.
            new: the parts of the new model's rendering.
        """
        passage = cls("".join(part.text for part in new))
        passage.old = "".join(part.text for part in old)
        scales = [_common(*pair) for pair in zip(old, new, strict=True)]
        passage.scales = (_joined([s[0] for s in scales]), _joined([s[1] for s in scales]))
        return passage


@dataclass(frozen=True)
class Part:
    """A frame or a message in a rendering."""

    text: str
    special: tuple[tuple[int, int], ...] = ()
    """Of a frame: start and end of each special token, in characters."""

    @property
    def widths(self) -> np.ndarray:
        """How much each byte counts, int64 [bytes]: one, but a special token counts as one altogether."""
        widths = np.ones(len(self.text.encode("utf-8")), dtype=np.int64)
        for start, end in self.special:
            first, last = (len(self.text[:place].encode("utf-8")) for place in (start, end))
            widths[first + 1 : last] = 0
        return widths

    @property
    def pieces(self) -> list[str | None]:
        """The text between special tokens, and None for each of these."""
        found, place = list[str | None](), 0
        for start, end in self.special:
            found += [self.text[place:start], None]
            place = end
        return [*found, self.text[place:]]


def _common(old: Part, new: Part) -> tuple[np.ndarray, np.ndarray]:
    """How much each byte of the two renderings of one part counts."""
    if old.pieces == new.pieces:
        return old.widths, new.widths
    both = [np.zeros(len(part.text.encode("utf-8")), dtype=np.int64) for part in (old, new)]
    # A base token of ordinary text would stand for the new one in other places, too: its share is counted.
    if new.text and old.special and old.special[0][0] == 0:
        for widths in both:
            widths[0] = 1
    return both[0], both[1]


def _joined(widths: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(widths))])


def encoded_pair(
    passage: str, encoders: tuple[Tokenizer, Tokenizer], tokenizers: tuple[TokenizerFiles, TokenizerFiles]
) -> tuple[Encoded, Encoded]:
    """A passage in old and in new tokens, with the ends of both on one scale.

    Args:
        passage: text that both models read, or a conversation.
        encoders: of the base and of the new model.
        tokenizers: of the base and of the new model.
    """
    old = passage.old if isinstance(passage, ChatPassage) else passage
    pair = [
        Encoded.of(str(text), encoder, tokenizer.vocabulary)
        for text, encoder, tokenizer in zip((old, passage), encoders, tokenizers, strict=True)
    ]
    if isinstance(passage, ChatPassage):
        pair = [Encoded(e.ids, scale[e.ends]) for e, scale in zip(pair, passage.scales, strict=True)]
    return pair[0], pair[1]


def base_text(passage: str) -> str:
    """The passage as the base model reads it."""
    return passage.old if isinstance(passage, ChatPassage) else passage


@dataclass(frozen=True, eq=False)
class Renderer:
    """Renders conversations for a base model and for the new model.

    Args:
        base: the base's tokenizer.
        model: the new model's tokenizer.
    """

    base: TokenizerFiles
    model: TokenizerFiles

    def render(self, conversation: Conversation) -> ChatPassage | None:
        """The conversation as both models read it; None if a template changes what a message says.

        If a template takes away white space around messages, both models read them without it. A start token at the
        beginning is left out, because each passage is read after it anyway.

        Raises:
            TokenAdaptError: a model has no chat template, or its template refuses the conversation.
        """
        contents = [message["content"] for message in conversation]
        for chosen in (contents, [content.strip() for content in contents]):
            parts = [template.parts(conversation, chosen) for template in self._templates]
            if parts[0] is not None and parts[1] is not None:
                return ChatPassage.of(parts[0], parts[1])
        return None

    @cached_property
    def _templates(self) -> tuple[_Template, _Template]:
        for tokenizer in (self.base, self.model):
            if tokenizer.chat_template is None:
                other = ", or make the model with --chat-template base" if self.base.chat_template else ""
                raise TokenAdaptError(
                    f"{tokenizer.name} has no chat template, so conversations cannot be rendered for it: give plain "
                    f"text{other}"
                )
        return _Template(self.base), _Template(self.model)


@dataclass(frozen=True, eq=False)
class _Template:
    """The chat template of one model."""

    tokenizer: TokenizerFiles

    def parts(self, conversation: Conversation, contents: Sequence[str]) -> list[Part] | None:
        """Frames and messages in turn; None if the rendering does not hold the messages as they are."""
        marks = [MARK.format(place) for place in range(len(contents))]
        frames = [self._rendered(conversation, marks)]
        for mark in marks:
            before, found, after = frames.pop().partition(mark)
            if not found:
                return None
            frames += [before, after]
        texts = [text for pair in zip(frames, [*contents, ""], strict=True) for text in pair][:-1]
        if "".join(texts) != self._rendered(conversation, contents):
            return None
        texts[0] = texts[0].removeprefix(self._start)
        return [self._frame(text) if n % 2 == 0 else Part(text) for n, text in enumerate(texts)]

    def _rendered(self, conversation: Conversation, contents: Sequence[str]) -> str:
        messages = [{**m, "content": content} for m, content in zip(conversation, contents, strict=True)]
        try:
            return str(
                self._transformers.apply_chat_template(
                    messages, chat_template=self.tokenizer.chat_template, tokenize=False
                )
            )
        except Exception as error:  # a template is a program, and fails with exceptions of its own
            raise TokenAdaptError(
                f"the chat template of {self.tokenizer.name} refuses a conversation with the roles "
                f"{', '.join(m['role'] for m in conversation)}: {first_line(error)}"
            ) from error

    def _frame(self, text: str) -> Part:
        return Part(text, tuple(match.span() for match in self._special.finditer(text)))

    @cached_property
    def _transformers(self) -> Any:
        return auto_tokenizer(self.tokenizer.folder)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches special tokens; longer ones first, as tokenizers do."""
        spellings = sorted((t.spelling for t in self.tokenizer.vocabulary if t.kind is TokenKind.SPECIAL), key=len)
        return re.compile("|".join(map(re.escape, reversed(spellings))) or r"(?!)")

    @cached_property
    def _start(self) -> str:
        start = start_token(self.tokenizer.vocabulary)
        return "" if start is None else self.tokenizer.vocabulary.by_id[start].spelling
