"""The Python in README.md and docs/python.md runs, from top to bottom, on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergekit_tokenadapt.texts import selection

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_snippets_run(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tiny_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_model_folder(byte_level_folder, tmp_path / "model")
    (tmp_path / "tokenizer").symlink_to(gemma_style_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes.txt").write_text("\n".join(f"a line of notes, number {n}" for n in range(200)), encoding="utf-8")
    monkeypatch.setattr(selection, "BUILTIN", {"en": selection.BUILTIN["en"]})  # one text in place of all
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    names: dict[str, Any] = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet.replace(" example", " the"), page, "exec"), names)  # a token that the tiny tokenizer has
    assert (tmp_path / "report.html").is_file()
    assert '" the" (id ' in capsys.readouterr().out
