"""Results of benchmarks: cells are measured once and kept, and every page is what its results give."""

from pathlib import Path

import click
import pytest

from benchmarks import merging, omp, speed
from benchmarks.common.results import Results
from benchmarks.quality import __main__ as quality
from benchmarks.size import __main__ as size
from benchmarks.size import stages
from benchmarks.supertokens import __main__ as supertokens
from benchmarks.tasks import __main__ as tasks

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results("question", tmp_path)


def test_what_was_measured_is_not_measured_again(results: Results) -> None:
    calls: list[str] = []

    def measure(key: str) -> int:
        calls.append(key)
        return len(calls)

    results.measure_missing([("a", lambda: measure("a"))])
    results.measure_missing([(key, lambda key=key: measure(key)) for key in "ab"], about=lambda: {"setting": 1})
    assert calls == ["a", "b"]
    assert results.read() == {"runs": {"a": 1, "b": 2}, "setting": 1}


def test_a_run_that_fails_keeps_the_cells_before(results: Results) -> None:
    def fail() -> None:
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        results.measure_missing([("a", lambda: 1), ("b", fail), ("c", lambda: 3)])
    assert results.read() == {"runs": {"a": 1}}


def test_a_change_that_fails_is_not_written(results: Results) -> None:
    def change() -> None:
        with results.change() as changed:
            changed["runs"] = {}
            raise RuntimeError("no power")

    results.measure_missing([("a", lambda: 1)])
    with pytest.raises(RuntimeError, match="no power"):
        change()
    assert results.read() == {"runs": {"a": 1}}


def test_two_runs_at_the_same_time_keep_each_others_cells(results: Results, tmp_path: Path) -> None:
    def measure() -> int:
        Results("question", tmp_path).measure_missing([("b", lambda: 2)])  # another run, while this one measures
        return 1

    results.measure_missing([("a", measure)])
    assert results.read()["runs"] == {"a": 1, "b": 2}


def test_cells_of_other_settings_do_not_get_into_the_same_file(results: Results) -> None:
    results.check_setting(False)  # there is nothing yet
    with results.change() as changed:
        changed["setting"] = 1
    results.check_setting(True)
    with pytest.raises(click.ClickException, match="other settings"):
        results.check_setting(False)


def test_a_page_without_results_is_one_line(results: Results) -> None:
    with pytest.raises(click.ClickException, match="no results yet"):
        results.for_page()


def size_pages(found: dict) -> dict[str, str]:
    return size.page.pages(found, [key for key in size._keys() if key not in found["runs"]])


PAGES = {
    "quality": lambda found: {"quality.md": quality.page(found)},
    "speed": lambda found: {"speed.md": speed.page(found)},
    "omp": lambda found: {"omp.md": omp.page(found)},
    "merging": lambda found: {"merging.md": merging.page(found)},
    "supertokens": lambda found: {
        "supertokens-measured.md": supertokens.page(found, [k for k, _ in supertokens._runs(supertokens.PARTS)])
    },
    "size": size_pages,
    "tasks": lambda found: {"tasks.md": tasks.page(found), "tasks.svg": tasks.drawn(tasks.measured(found["runs"]))},
}


@pytest.mark.parametrize("question", PAGES)
def test_a_page_is_what_its_results_give(question: str) -> None:
    pages = PAGES[question](Results(question).for_page())
    assert {name: (DOCS / name).read_text(encoding="utf-8") for name in pages} == pages, (
        f"python -m benchmarks.{question} --page-only writes another page than the one in docs/"
    )


@pytest.mark.parametrize("step", stages.STEPS)
def test_the_clock_finds_every_step(step: str) -> None:
    """The clock replaces functions and properties by name, private ones too: a rename must be seen."""
    for owner, attribute in stages.STEPS[step]:
        assert attribute in vars(owner), f"{owner}.{attribute}"
