"""The folders of the package form layers: what lies lower knows nothing of what lies higher.

CONTRIBUTING.md lists the same layers, and says what each folder holds.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mergekit_tokenadapt"
LAYERS = (
    "terminal",
    "errors",
    "options",
    "extensions",
    "storage",
    "numerics",
    "tokenizer",
    "texts",
    "models",
    "auxiliary",
    "transfer",
    "methods",
    "correction",
    "output",
    "healing",
    "supertokens",
    "vocabulary_extension",
    "plugin",
    "two_models",
    "ensemble",
    "retokenization",
    "evaluation",
    "front_door",
    "cli",
)
"""The lowest first. A folder imports only from itself and from those before it."""
MERGEKIT = ("plugin",)
"""Folders that may import mergekit."""
MEASURING = ("front_door", "cli")
"""Folders that may import `evaluation`."""


def imports(code: str) -> Iterator[str]:
    """Every module that code imports, those inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(module: str) -> str | None:
    """The folder of a module of ours, or `errors`; None for other packages' modules and the package itself."""
    names = module.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 and names[1] in LAYERS else None


def wrong(module: str, code: str) -> list[str]:
    """The imports of a module that its layer does not allow."""
    own = folder_of(module)
    found = []
    for imported in sorted(set(imports(code))):
        other = folder_of(imported)
        is_higher = own is not None and other is not None and LAYERS.index(other) > LAYERS.index(own)
        measures = other == "evaluation" and own not in (*MEASURING, "evaluation")
        merges = imported.split(".")[0] == "mergekit" and own not in MERGEKIT
        if is_higher or measures or merges:
            found.append(f"{module} imports {imported}")
    return found


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_lower_ones(layer: str) -> None:
    files = [file for file in FILES if folder_of(name_of(file)) == layer]
    assert files
    assert [line for file in files for line in wrong(name_of(file), file.read_text(encoding="utf-8"))] == []


def test_every_module_has_a_layer() -> None:
    assert {name_of(file) for file in FILES if folder_of(name_of(file)) is None} == {PACKAGE}
    assert {file.name for file in (ROOT / PACKAGE).glob("*.py")} == {"__init__.py", "errors.py", "options.py"}


def test_contributing_lists_the_layers_in_this_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = text.split("## Layers")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)/?` \|", part, re.MULTILINE)) == LAYERS


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("tokenizer.files", f"from {PACKAGE}.models import folder"),
        ("models.folder", f"def f():\n    import {PACKAGE}.evaluation.compare"),
        ("transfer.plan", f"from {PACKAGE} import methods"),
        ("cli.draft", "from mergekit.options import MergeOptions"),
    ],
)
def test_a_wrong_import_is_seen(module: str, code: str) -> None:
    assert len(wrong(f"{PACKAGE}.{module}", code)) >= 1
