"""Text to train on that every Python has: its reference manual (English) and its own modules (code)."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path


def python_manual() -> list[str]:
    """The topics of Python's reference manual, about 700 kB of English about a programming language."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def python_sources() -> list[str]:
    """The modules of the standard library, 20 kB of each at most, that read as Python 3 and as UTF-8."""
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
    """Training and held-out documents: every tenth is held out."""
    held_out = documents[::held_out_every]
    return [d for n, d in enumerate(documents) if n % held_out_every], held_out


def blocks(documents: list[str], tokenizer: object, length: int) -> list[list[int]]:
    """All documents as token ids, one after the other with eos in between, cut into blocks of `length`."""
    ids: list[int] = []
    for text in documents:
        ids += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]  # type: ignore
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
