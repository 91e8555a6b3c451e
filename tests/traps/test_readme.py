"""The list of traps names tests that exist, and every test here is in the list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
OWN = {"test_readme.py"}


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_named_test_exists() -> None:
    named = NAMED.findall((HERE / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(HERE.parent / file)]
    assert missing == []


def test_every_trap_test_is_named() -> None:
    named = set(NAMED.findall((HERE / "README.md").read_text(encoding="utf-8")))
    own = {(f"traps/{f.name}", name) for f in HERE.glob("test_*.py") if f.name not in OWN for name in names_in(f)}
    assert {name for _, name in own - named} == {"test_random_tokenizers_are_the_same_in_every_run"}
