"""A tokenizer's chat templates: the default one and others by name, wherever a folder keeps them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import one_error

LOG = logging.getLogger(__name__)

DEFAULT = "default"
DEFAULT_FILE = "chat_template.jinja"
NAMED_FOLDER = "additional_chat_templates"
"""Where transformers keeps the other templates, one ``NAME.jinja`` each."""

_FILE_NAME = re.compile(r"[\w][\w .-]*")


def template_files(folder: Path) -> list[Path]:
    """The files of the named templates, sorted."""
    return sorted(file for file in (folder / NAMED_FOLDER).glob("*.jinja") if file.is_file())


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Name to Jinja source; the one that is used where nobody names one is called ``default``.

    As transformers has it, files win over `config`, the content of tokenizer_config.json, which holds one template,
    a list of ``{"name": ..., "template": ...}``, or a mapping. Last comes chat_template.json, where processors of
    images used to keep theirs.
    """
    files = {DEFAULT: folder / DEFAULT_FILE, **{file.stem: file for file in template_files(folder)}}
    found = {name: _read(file) for name, file in files.items() if file.is_file()}
    return found or _in_config(config.get("chat_template")) or _in_config(_of_processor(folder))


def write_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Put templates where transformers looks first; a name that is no plain file name is left out with a warning."""
    for name, template in templates.items():
        if name == DEFAULT:
            (folder / DEFAULT_FILE).write_bytes(template.encode("utf-8"))
        elif _FILE_NAME.fullmatch(name):
            (folder / NAMED_FOLDER).mkdir(exist_ok=True)
            (folder / NAMED_FOLDER / f"{name}.jinja").write_bytes(template.encode("utf-8"))
        else:
            LOG.warning("the chat template %r is left out: its name cannot be that of a file", name)


def _of_processor(folder: Path) -> Any:
    file = folder / "chat_template.json"
    with one_error(f"{file} is not valid JSON"):
        content = json.loads(_read(file)) if file.is_file() else None
    return content.get("chat_template") if isinstance(content, dict) else None


def _read(file: Path) -> str:
    with one_error(f"{file} is not text in UTF-8"):
        return file.read_bytes().decode("utf-8")


def _in_config(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {DEFAULT: value}
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(each.get("name"), each.get("template")) for each in value if isinstance(each, Mapping)]
    return {name: template for name, template in pairs if isinstance(name, str) and isinstance(template, str)}
