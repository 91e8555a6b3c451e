"""Text to heal with, from PyPI alone: English and code of Python itself, Chinese from Django's translations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from examples.samples.models import KEPT, fetch
from examples.samples.python_texts import python_manual, python_sources

DJANGO = "django==5.2.8"
CHINESE = ("zh_Hans", "zh_Hant")
"""Simplified and traditional, in Django's names."""
BYTES_EACH = 100_000
"""Of English and of code, so that Chinese, of which there is less, has a share that counts."""
_MESSAGE = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', re.MULTILINE)


def healing_texts(folder: Path) -> list[str]:
    """Write the three texts into a folder, unless they are there.

    Returns:
        ``NAME=PATH`` each, as ``heal --text`` takes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"english": _english, "code": _code, "chinese": _chinese}
    for name, make in makers.items():
        if not (folder / f"{name}.txt").is_file():
            (folder / f"{name}.txt").write_text(make(), encoding="utf-8")
    return [f"{name}={folder / f'{name}.txt'}" for name in makers]


def _english() -> str:
    return _evenly(python_manual())


def _code() -> str:
    return _evenly(python_sources())


def _chinese() -> str:
    names = {f"*/locale/{language}/LC_MESSAGES/django.po": f"{language}/" for language in CHINESE}
    folder = fetch(DJANGO, names, KEPT / "django-chinese")
    return "\n".join(message for file in sorted(folder.rglob("*.po")) for message in _messages(file))


def _messages(file: Path) -> Iterator[str]:
    """The translated messages of a .po file, without its header."""
    for match in _MESSAGE.finditer(file.read_text(encoding="utf-8")):
        text = "".join(re.findall(r'"(.*)"', match[1])).replace("\\n", "\n").replace('\\"', '"')
        if text and "Content-Type" not in text:
            yield text


def _evenly(documents: list[str]) -> str:
    """Evenly spaced documents, about `BYTES_EACH` together."""
    total = sum(len(text.encode("utf-8")) for text in documents)
    step = max(1, total // BYTES_EACH)
    return "\n".join(documents[::step])
