"""Chat templates: their markers, and where they stand in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.tokenizer_files import TokenizerFiles, read_json

_MARKER = re.compile(r"<\|?[^\s<>{}'\"|]+\|?>|\[/?[A-Z_]{3,}\]|<｜[^<>\s]+｜>")


def markers(template: str) -> list[str]:
    """Markers such as ``<|im_start|>`` in a chat template, sorted."""
    return sorted(set(_MARKER.findall(template)))


def stray_markers(template: str, tokenizer: TokenizerFiles) -> list[str]:
    """Markers in a chat template that the tokenizer does not take for one token, sorted."""
    encoder = tokenizer.fast_tokenizer()
    return [m for m in markers(template) if len(encoder.encode(m, add_special_tokens=False).ids) != 1]


def replace_template(out: Path, template: str | None) -> None:
    """Put the template where transformers looks first, and nowhere else."""
    config = read_json(out / "tokenizer_config.json")
    if config.pop("chat_template", None) is not None:
        write_json(out / "tokenizer_config.json", config)
    for name in ("chat_template.jinja", "chat_template.json"):
        (out / name).unlink(missing_ok=True)
    if template is not None:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
