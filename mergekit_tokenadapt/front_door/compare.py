"""Compare models from Python."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import CompareOptions
from mergekit_tokenadapt.front_door.loading import SAVE_FIRST, name_of
from mergekit_tokenadapt.storage.file_writing import write_file
from mergekit_tokenadapt.texts.selection import ComparedTexts


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of `compare`. Its `str` is the text that the command `compare` prints."""

    result: dict[str, Any]
    """The content of the report, see docs/evaluation.md."""

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the comparison into a file: a web page (``.html``) or data (``.json``). Returns the path.

        Raises:
            TokenAdaptError: the name has another ending.
        """
        path = Path(file)
        if path.suffix not in _WRITERS:
            raise TokenAdaptError(f"{path}: a comparison is saved as {' or '.join(_WRITERS)}")
        write_file(path, _WRITERS[path.suffix](self.result))
        return path

    def __str__(self) -> str:
        from rich.console import Console

        from mergekit_tokenadapt.evaluation.report.compare import print_compare

        text = io.StringIO()
        print_compare(Console(file=text, width=120), self.result)
        return text.getvalue()


def compare(
    base: str | os.PathLike[str],
    *outs: str | os.PathLike[str],
    trust_remote_code: bool = False,
    **options: Any,
) -> Comparison:
    """Score texts with several models: bits per byte, token counts, and the tokens with most of the loss.

    Args:
        base: folder or hub id of the model that the others are compared with.
        outs: folders or hub ids of the other models.
        trust_remote_code: whether the models' own code may run.
        options: the command's options. `texts` are files, folders or jsonl files (``[NAME=]PATH``), `builtin` are names
            of built-in texts, and `max_bytes` is the number of bytes to score of each text: the fields of
            `texts.selection.ComparedTexts`. `window`, `stride`, `batch_size`, `device`, `dtype` and more are the fields
            of `evaluation.options.CompareOptions`.

    Raises:
        TokenAdaptError: a model cannot be loaded, or a text or an option is wrong.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> ta.compare("./model", "./out").save("report.html")  # doctest: +SKIP
        PosixPath('report.html')
    """
    from mergekit_tokenadapt.evaluation import compare as comparing
    from mergekit_tokenadapt.models.folder import open_model

    texts = {key: options.pop(key) for key in ComparedTexts.model_fields if key in options}
    chosen = CompareOptions(**{"rows": True, **options})  # a later `save` may write a page, which shows the rows
    sets = ComparedTexts(**texts).read()
    names = [name_of(each, "a model", SAVE_FIRST) for each in (base, *outs)]
    folders = [open_model(name, trust_remote_code=trust_remote_code) for name in names]
    return Comparison(comparing.compare(folders, sets, chosen))


def _page(result: dict[str, Any]) -> str:
    """Return the web page."""
    from mergekit_tokenadapt.evaluation.report.html import compare_page

    return compare_page(result)


def _data(result: dict[str, Any]) -> str:
    """Return the JSON text."""
    from mergekit_tokenadapt.terminal.visible import json_text

    return json_text(result) + "\n"


_WRITERS = {".html": _page, ".json": _data}
"""File ending -> function that turns the result into the file's content."""
