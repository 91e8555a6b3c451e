"""Texts that every Python installation has: its reference manual (English) and its own modules (code)."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path


def python_manual() -> list[str]:
    """Return the topics of Python's reference manual: about 700 kB of English about a programming language."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def python_sources() -> list[str]:
    """Return modules of the standard library, at most 20 kB of each; files that are not UTF-8 Python 3 are left out."""
    sources = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            text = file.read_text(encoding="utf-8")
            ast.parse(text)
        except (ValueError, SyntaxError):
            continue
        sources.append(text[:20000])
    return [text for text in sources if len(text) > 1000]


def split(documents: list[str], held_out_every: int = 10) -> tuple[list[str], list[str]]:
    """Split documents into those to train on and those held out: every tenth is held out."""
    held_out = documents[::held_out_every]
    return [d for n, d in enumerate(documents) if n % held_out_every], held_out


def blocks(documents: list[str], tokenizer: object, length: int) -> list[list[int]]:
    """Return the token ids of all documents, each followed by eos, divided into blocks of `length` tokens."""
    ids: list[int] = []
    for text in documents:
        ids += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]  # type: ignore
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
