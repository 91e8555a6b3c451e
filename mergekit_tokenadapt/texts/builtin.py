"""The built-in texts. They are our own or in the public domain, see SOURCES.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.texts.text_set import TextSet

FOLDER = Path(__file__).parent
"""Folder with the built-in files."""
SEPARATOR = "\n%%\n"
"""Separates two documents in a built-in file."""

LANGUAGES: Mapping[str, str] = {
    "ar": "Arabic",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Russian",
    "sw": "Swahili",
    "th": "Thai",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""ISO 639-1 code -> language of the parallel text (Universal Declaration of Human Rights)."""

BUILTIN: Mapping[str, str] = {
    "prose": "English prose",
    "code": "code in eight languages",
    "arithmetic": "sums and divisions",
    "hard": "characters that tokenizers stumble over",
    **{code: f"Universal Declaration of Human Rights, {language}" for code, language in LANGUAGES.items()},
}
"""Name -> description of every built-in text."""


def builtin_text(name: str) -> TextSet:
    """Return a built-in text.

    Raises:
        TokenAdaptError: no built-in text has that name.
    """
    if name not in BUILTIN:
        raise TokenAdaptError(f"there is no built-in text {name!r}; there are {', '.join(BUILTIN)}")
    if name == "hard":
        documents = list(json.loads((FOLDER / "hard.json").read_text(encoding="utf-8")).values())
    else:
        file = FOLDER / "declaration" / f"{name}.txt" if name in LANGUAGES else FOLDER / f"{name}.txt"
        documents = file.read_text(encoding="utf-8").removesuffix("\n").split(SEPARATOR)
    return TextSet.of(name, documents, f"built-in: {BUILTIN[name]}")


def parallel_texts() -> dict[str, TextSet]:
    """Return for each language code the same 31 documents in that language."""
    return {code: builtin_text(code) for code in LANGUAGES}
