"""Every name of ours that a script, a test or a page imports is there: a rename cannot break one unseen.

mypy looks at the package, examples and benchmarks. These tests also look at the slow tests, which most runs
leave out, and at the Python in README.md and docs/.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mergekit_tokenadapt", "benchmarks", "examples")
SCRIPTS = [file for folder in ("benchmarks", "examples", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLES = "examples.samples"
"""The models and texts that examples and benchmarks share."""


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(code: str) -> Iterator[tuple[str, str | None]]:
    """Module and name of every import, those inside functions too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def missing(code: str) -> list[str]:
    """Imports of our own modules that would fail."""
    ours = [(module, name) for module, name in imported(code) if module.split(".")[0] in PACKAGES]
    return [f"{module}: {name}" for module, name in ours if not _is_there(module, name)]


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
    package = PACKAGES[0]
    lines = re.findall(rf"^\s*((?:from|import) {package}[\w.]*(?: import [\w, ]+)?)", page.read_text(), re.MULTILINE)
    assert missing("\n".join(lines)) == []


def test_a_name_that_is_not_there_is_seen() -> None:
    package = PACKAGES[0]
    code = f"def f():\n    from {package}.pursuit.search import Search\n    import {package}.none\n"
    code += f"from {package}.errors import TokenAdaptError, Nothing\nfrom benchmarks.donor import main\n"
    assert missing(code) == [
        f"{package}.errors: Nothing",
        "benchmarks.donor: main",
        f"{package}.pursuit.search: Search",
        f"{package}.none: None",
    ]


# --- benchmarks and examples ---------------------------------------------------------------------


def _imports_from(folder: str, others: tuple[str, ...]) -> set[str]:
    """The modules below `others` that the files of a folder import, the shared samples apart."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {f"{module}.{name}" for file in files for module, name in imported(file.read_text(encoding="utf-8"))}
    return {name for name in found if name.split(".")[0] in others and not name.startswith(f"{SAMPLES}.")}


def test_examples_and_benchmarks_share_only_the_samples() -> None:
    assert _imports_from("benchmarks", ("examples",)) == set()
    assert _imports_from("examples", ("benchmarks",)) == set()
    assert _imports_from(PACKAGES[0], ("benchmarks", "examples")) == set()
    assert _imports_from("benchmarks", ("benchmarks",)), "imports are not seen"


def test_no_script_changes_where_modules_are_found() -> None:
    files = [file for file in SCRIPTS if not file.is_relative_to(ROOT / "tests")]
    assert files
    assert [file for file in files if re.search(r"\bsys\.path\b", file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_benchmark_can_be_imported_and_does_nothing_then(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(name_of(file))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_command_that_a_page_names_is_a_module(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"python3? (?:benchmarks|examples)/", text)
    for module in re.findall(r"python -m ((?:benchmarks|examples)\.[\w.]+\w)", text):
        file = ROOT / Path(*module.split("."))
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
