"""Results of one question: a JSON file to which runs add cell by cell, and the page that is printed from it.

A cell is the result of one measurement. A run measures the cells that are missing, and writes each one at once. A run
that was stopped therefore goes on where it stopped, and two runs at the same time keep each other's cells.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""
_TRIAL = os.environ.get("TOKENADAPT_RESULTS")
FOLDER = Path(_TRIAL or ROOT / "benchmarks" / "results")
"""Where the JSON files are. A trial run names another folder in the environment, and writes its pages there, too."""
DOCS = Path(_TRIAL or ROOT / "docs")
PNG_WIDTH = 1600
"""Pixels."""
Cell = tuple[str, Callable[[], Any]]
"""Key of a cell, which says all that the measurement depends on, and the function that measures it."""

page_only = click.option("--page-only", is_flag=True, help="Measure nothing; write the page from the results.")
"""The option that every question with a page has."""


class Results:
    """The results of one question."""

    def __init__(self, question: str, folder: Path = FOLDER) -> None:
        self._file = folder / f"{question}.json"

    def read(self) -> dict[str, Any]:
        """All results; an empty dictionary before the first one."""
        found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        return found

    def for_page(self) -> dict[str, Any]:
        """All results, for the page.

        Raises:
            ClickException: there are none.
        """
        if not (found := self.read()):
            raise click.ClickException(f"there are no results yet in {self._file}; run the command without --page-only")
        return found

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """Yield the newest results, and write them back with the caller's changes.

        Other runs wait meanwhile. The file is replaced as a whole, and stays as it was where the caller fails.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            results = self.read()
            yield results
            stage = self._file.with_suffix(".partial")
            stage.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            stage.replace(self._file)

    def check_setting(self, is_same: bool) -> None:
        """Stop a run whose cells cannot stand beside those that are there.

        Raises:
            ClickException: `is_same` is False, and there are results.
        """
        if self.read() and not is_same:
            raise click.ClickException(
                f"{self._file} was measured with other settings or versions. Move it away to measure everything again, "
                "or set TOKENADAPT_RESULTS to another folder for a trial."
            )

    def measure_missing(
        self, cells: Iterable[Cell], *, under: str = "runs", about: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Measure every cell that has no result yet.

        Args:
            cells: may be a generator that prepares what the next measurement needs.
            under: top-level key of the results below which the cells are.
            about: what else the file says of the newest measurement, by top-level key: versions, for example.
        """
        for key, measure in cells:
            if key not in self.read().get(under, {}):
                say(key)
                result = measure()
                with self.change() as results:
                    results.setdefault(under, {})[key] = result
                    results |= about()


def setting(*packages: str, cores: bool = False) -> dict[str, Any]:
    """What a reader needs to repeat a run: the versions of Python and of packages, and the number of CPU cores."""
    found: dict[str, Any] = {"python": platform.python_version(), "packages": versions(*packages)}
    return found | ({"cores": len(os.sched_getaffinity(0))} if cores else {})


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of packages."""
    return {name: version(name) for name in packages}


def in_words(packages: dict[str, str]) -> str:
    """Names and versions in a line of text."""
    return ", ".join(f"{name} {number}" for name, number in packages.items())


def write_page(name: str, content: str) -> None:
    """Write a page or a picture into docs/."""
    (DOCS / name).write_text(content, encoding="utf-8")
    click.echo(f"wrote {DOCS / name}", err=True)


def write_picture(name: str, svg: str) -> None:
    """Write a picture into docs/, as SVG and as PNG: some sites show no SVG.

    The letters of the PNG are those of DejaVu Sans. Where this font is not installed, the PNG has no text.
    """
    import resvg_py

    write_page(f"{name}.svg", svg)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=PNG_WIDTH, background="white", sans_serif_family="DejaVu Sans")
    (DOCS / f"{name}.png").write_bytes(bytes(png))
    click.echo(f"wrote {DOCS / name}.png", err=True)


def say(line: str) -> None:
    """Print a line about progress, with the time of day, on standard error."""
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)
