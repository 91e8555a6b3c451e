"""What pyproject.toml says of other packages: every one that we import is named, and no bound is idle."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(lines: list[str]) -> dict[str, SpecifierSet]:
    """Canonical name to versions; requirements of other platforms and extras are left out."""
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in found if r.marker is None or r.marker.evaluate()}


def lowest(versions: SpecifierSet) -> Version:
    bounds = [Version(one.version) for one in versions if one.operator == ">="]
    return max(bounds, default=Version("0"))


DEPENDENCIES = parsed(PROJECT["dependencies"])
EXTRAS = {name for lines in PROJECT["optional-dependencies"].values() for name in parsed(lines)}


@pytest.mark.parametrize("package", sorted(DEPENDENCIES))
def test_no_bound_is_below_what_mergekit_asks_for(package: str) -> None:
    asked = parsed(requires("mergekit") or []).get(package, SpecifierSet())
    assert lowest(DEPENDENCIES[package]) >= lowest(asked), f"{package}{asked} is mergekit's own"


def imports(file: Path) -> set[str]:
    """Packages that a module imports, those inside functions too."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_every_package_that_is_imported_is_named() -> None:
    used = set().union(*(imports(file) for file in (ROOT / "mergekit_tokenadapt").rglob("*.py")))
    distributions = packages_distributions()
    others = {
        canonicalize_name(distributions.get(name, [name])[0])
        for name in used - set(sys.stdlib_module_names) - {"mergekit_tokenadapt"}
    }
    assert others - set(DEPENDENCIES) - EXTRAS == set()


def test_extras_that_a_message_offers_are_there() -> None:
    offered = set()
    for file in [*(ROOT / "mergekit_tokenadapt").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        text = file.read_text(encoding="utf-8")
        offered |= set(re.findall(r'\bextra="([\w-]+)", wanted_by', text))
        offered |= {one for group in re.findall(r"mergekit-tokenadapt\[([\w,-]+)\]", text) for one in group.split(",")}
    assert offered
    assert offered - set(PROJECT["optional-dependencies"]) == set()
