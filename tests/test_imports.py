"""Every name of ours that a script, a test or a page imports is there: a rename cannot break one unseen.

mypy looks at the package, the examples and the benchmarks. Here it is also slow tests, which most runs leave out, and
the Python in README.md and docs/.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [file for folder in ("benchmarks", "examples", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = "mergekit_tokenadapt"


def ours(code: str) -> Iterator[tuple[str, str | None]]:
    """Module and name of every import from the package, those inside functions too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from ((node.module or "", alias.name) for alias in node.names)


def missing(code: str) -> list[str]:
    """Imports that would fail."""
    return [f"{module}: {name}" for module, name in ours(code) if not _is_there(module, name)]


def _is_there(module: str, name: str | None) -> bool:
    try:
        if name is None or not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}" if name else module)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_script_imports_is_there(script: Path) -> None:
    assert missing(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_page_imports_is_there(page: Path) -> None:
    lines = re.findall(rf"^\s*((?:from|import) {PACKAGE}[\w.]*(?: import [\w, ]+)?)", page.read_text(), re.MULTILINE)
    assert missing("\n".join(lines)) == []


def test_a_name_that_is_not_there_is_seen() -> None:
    code = f"def f():\n    from {PACKAGE}.pursuit.search import Search\n    import {PACKAGE}.none\n"
    assert missing(code + f"from {PACKAGE}.errors import TokenAdaptError, Nothing\n") == [
        f"{PACKAGE}.errors: Nothing",
        f"{PACKAGE}.pursuit.search: Search",
        f"{PACKAGE}.none: None",
    ]
