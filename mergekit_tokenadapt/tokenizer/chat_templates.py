"""Read and write the chat templates of a tokenizer: the default template and named ones."""

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
"""Name of the template that is used if none is named."""
DEFAULT_FILE = "chat_template.jinja"
NAMED_FOLDER = "additional_chat_templates"
"""Folder in which transformers keeps the other templates, as ``NAME.jinja``."""

_FILE_NAME = re.compile(r"[\w][\w .-]*")
"""Matches names that are safe as file names: they hold no path separators and do not start with a dot."""


def template_files(folder: Path) -> list[Path]:
    """Return the files of a folder's named templates, sorted."""
    return sorted(file for file in (folder / NAMED_FOLDER).glob("*.jinja") if file.is_file())


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Read all chat templates of a tokenizer folder.

    Three places are tried in transformers' order, and the first that holds templates is used: Jinja files; the key
    ``chat_template`` of tokenizer_config.json; and chat_template.json, where image processors used to keep theirs. The
    key holds one template, a list of ``{"name": ..., "template": ...}``, or a mapping from names to templates.

    Args:
        folder: the tokenizer's folder.
        config: the content of its tokenizer_config.json.

    Returns:
        Name -> Jinja source. The template that is used by default has the name ``default``.

    Raises:
        TokenAdaptError: a file is not UTF-8, or chat_template.json is not valid JSON.
    """
    files = {DEFAULT: folder / DEFAULT_FILE, **{file.stem: file for file in template_files(folder)}}
    found = {name: _read(file) for name, file in files.items() if file.is_file()}
    return found or _in_config(config.get("chat_template")) or _in_config(_of_processor(folder))


def write_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Write templates as Jinja files, where transformers looks first.

    A template whose name cannot be a file name is left out with a warning.
    """
    for name, template in templates.items():
        if name == DEFAULT:
            (folder / DEFAULT_FILE).write_bytes(template.encode("utf-8"))
        elif _FILE_NAME.fullmatch(name):
            (folder / NAMED_FOLDER).mkdir(exist_ok=True)
            (folder / NAMED_FOLDER / f"{name}.jinja").write_bytes(template.encode("utf-8"))
        else:
            LOG.warning("the chat template %r is left out: its name cannot be a file name", name)


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
