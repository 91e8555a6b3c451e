"""Find the Python files that the `auto_map` of a config needs, for a model or tokenizer with its own code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, one_error

OF_ANOTHER_REPOSITORY = "--"
"""Stands between repository and module in a reference to code on the hub (``org/model--modeling.Model``)."""


def code_files(folder: Path, configs: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Return the files of `folder` that hold the classes of the configs' `auto_map`, and the files that they import.

    Args:
        folder: the folder of the configs.
        configs: the content of JSON files.

    Returns:
        The files, sorted. Code of other repositories and files that do not exist are left out.

    Raises:
        TokenAdaptError: a file is not UTF-8 text.
    """
    from transformers.dynamic_module_utils import get_relative_imports

    there = {file.stem: file for file in folder.glob("*.py") if file.is_file()}
    found: dict[str, Path] = {}
    wanted = [module for config in configs for module in _modules(config.get("auto_map"))]
    while wanted:
        module = wanted.pop()
        if module in there and module not in found:
            found[module] = there[module]
            with one_error(f"{there[module]} cannot be read as code"):
                wanted += get_relative_imports(there[module])
    return sorted(found.values())


def check_same_names(files: Iterable[Path]) -> None:
    """Refuse files of the same name and different content.

    Raises:
        TokenAdaptError: two such files are given.
    """
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(file.name, file)
        if other.read_bytes() != file.read_bytes():
            raise TokenAdaptError(
                f"{other} and {file} would both be copied into the output, and differ: rename one of them, also in "
                "the auto_map and the imports that name it"
            )


def _modules(auto_map: Any) -> Iterator[str]:
    """Yield the modules that an `auto_map` names, without those of other repositories."""
    classes = auto_map.values() if isinstance(auto_map, Mapping) else ()
    for each in classes:
        for reference in each if isinstance(each, list | tuple) else [each]:
            if isinstance(reference, str) and OF_ANOTHER_REPOSITORY not in reference:
                yield reference.partition(".")[0]
