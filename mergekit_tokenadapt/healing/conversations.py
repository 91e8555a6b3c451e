"""Conversations in a jsonl file: a list of ``messages`` in each line, each with a ``role`` and a ``content``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, one_error
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.texts.sources import UNREADABLE, TextPlace, open_text, parsed_line

FIELD = "messages"
"""Key of the messages, unless the text's ``,field=`` says otherwise."""

Conversation = list[dict[str, str]]
"""Messages with ``role`` and ``content``."""


@dataclass(frozen=True)
class ChatSet(TextSet):
    """A text whose documents are conversations, each a JSON list of messages."""

    def conversations(self) -> list[Conversation]:
        """The conversations, in the order of the file."""
        return [json.loads(document) for document in self.documents]


def read_conversations(place: TextPlace) -> ChatSet | None:
    """Read a jsonl file of conversations; return None if the text is another one.

    Args:
        place: an existing text. The first line of its file says whether it holds conversations.

    Raises:
        TokenAdaptError: the file cannot be read, a line is not JSON, or a message has no role or content; the message
            names the line.
    """
    path, field = Path(place.place), place.settings.get("field", FIELD)
    if ".jsonl" not in path.suffixes or not path.is_file() or not _has_messages(path, field):
        return None
    documents = [json.dumps(c, ensure_ascii=False) for c in _read(path, field)]
    found = ChatSet.of(place.name, documents, place.source)
    assert isinstance(found, ChatSet)
    return found


def _has_messages(path: Path, field: str) -> bool:
    try:
        with open_text(path) as opened:
            record = json.loads(next((line for line in opened if line.strip()), b""))
    except (*UNREADABLE, ValueError, RecursionError):  # what reads it as plain text says what is wrong
        return False
    return isinstance(record, dict) and isinstance(record.get(field), list)


def _read(path: Path, field: str) -> Iterator[Conversation]:
    with one_error(f"{path} cannot be read"), open_text(path) as opened:
        lines = opened.read().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = parsed_line(line, path, number)
        messages: Any = record.get(field) if isinstance(record, dict) else None
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise TokenAdaptError(
                f"{path}, line {number}: {field!r} is not a list of messages, each with a text as its role and a text "
                "as its content"
            )
        yield [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
