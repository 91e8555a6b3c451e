"""Results of benchmarks: cells are measured once and kept, and every page is what its results give."""

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from benchmarks import merging, omp, speed
from benchmarks.common import models
from benchmarks.common.gaps import change
from benchmarks.common.results import Results
from benchmarks.extension import cells as extension_cells
from benchmarks.extension import page as extension
from benchmarks.healing import causes
from benchmarks.quality import __main__ as quality
from benchmarks.size import __main__ as size
from benchmarks.size import stages
from benchmarks.supertokens import __main__ as supertokens
from benchmarks.supertokens import healed, healed_page
from benchmarks.tasks import __main__ as tasks
from benchmarks.tasks import swaps
from benchmarks.tasks.advice import advice, command
from benchmarks.tasks.cases import ALL_ROWS, BASE, key_of
from benchmarks.tasks.claims import comparisons
from benchmarks.tasks.shares import shares_kept, tasks_and_rows
from examples.samples import models as samples

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
    def fail_to_change() -> None:
        with results.change() as changed:
            changed["runs"] = {}
            raise RuntimeError("no power")

    results.measure_missing([("a", lambda: 1)])
    with pytest.raises(RuntimeError, match="no power"):
        fail_to_change()
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
    "extension": lambda found: {"extension-measured.md": extension.page(found, Results("quality").read())},
    "tasks": lambda found: {
        "tasks.md": tasks.page(found, *(Results(question).for_page() for question in tasks.QUESTIONS)),
        "tasks.svg": tasks.drawn(tasks.measured(found["runs"])),
    },
}


@pytest.mark.parametrize("question", PAGES)
def test_a_page_is_what_its_results_give(question: str) -> None:
    pages = PAGES[question](Results(question).for_page())
    assert {name: (DOCS / name).read_text(encoding="utf-8") for name in pages} == pages, (
        f"python -m benchmarks.{question} --page-only writes another page than the one in docs/"
    )


def cell(*bits: float) -> dict:
    """A cell of a task with gold answers of 10 bytes each."""
    parts = {"above": list(bits), "below": [10.0] * len(bits)}
    return {"metrics": {"bits_per_byte": parts}, "swap_seconds": 60.0, "documents": len(bits), "choices": len(bits)}


def cells(pair: str, task: str, **rows: dict) -> dict[str, dict]:
    return {key_of(pair, BASE if row == "base" else row, task, 3): found for row, found in rows.items()}


RUNS = cells("smollm2-mistral", "LAMBADA", base=cell(5, 6, 7), mean=cell(10, 12, 14), zero=cell(20, 24, 29))


def test_the_share_kept_is_the_same_in_every_resample_where_each_document_costs_twice_as_much() -> None:
    base, mean = (RUNS[key_of("smollm2-mistral", row, "LAMBADA", 3)] for row in (BASE, "mean"))
    assert shares_kept("LAMBADA", mean, base) == pytest.approx(0.5)


def test_tasks_are_those_with_the_most_cells_and_rows_without_one_are_left_out() -> None:
    more = cells("smollm2-mistral", "HumanEval", base=cell(1, 1, 1), mean=cell(2, 2, 2))
    assert tasks_and_rows(RUNS, "smollm2-mistral", ["mean", "zero"], 3) == (["LAMBADA"], ["mean", "zero"])
    third = cells("smollm2-mistral", "LAMBADA", vipi=cell(9, 13, 14.5))
    rows = ["mean", "zero", "vipi"]
    assert tasks_and_rows(RUNS | more | third, "smollm2-mistral", rows, 3) == (["LAMBADA"], rows)
    assert tasks_and_rows(RUNS | more, "smollm2-mistral", ["mean"], 3) == (["LAMBADA", "HumanEval"], ["mean"])


def test_the_advice_is_the_row_that_keeps_most_and_names_those_that_are_not_clearly_worse() -> None:
    (line,) = [one for one in advice(RUNS, [("smollm2-mistral", 3)]) if one.startswith("| no text")]
    assert line == "| no text and no training | `transplant --method mean` | 50% (50% to 50%) | 1.0 | none of 2 |"
    near = cells("smollm2-mistral", "LAMBADA", vipi=cell(9, 13, 14.5))
    (line,) = [one for one in advice(RUNS | near, [("smollm2-mistral", 3)]) if one.startswith("| no text")]
    assert line.endswith("| vipi |")


def test_every_row_has_a_command() -> None:
    assert command("calibrated, ngram") == "`transplant`"
    healed = command("calibrated, untied, ALM's loss for 15 minutes")
    assert healed.endswith("`heal --minutes 15 --interpolate 1 --objective chunks`")
    assert command("tokensurgeon, omp") == "`mergekit-tokensurgeon --approximation-method omp`"
    assert len({command(row) for row in ALL_ROWS if row != BASE}) == len(ALL_ROWS) - 1


def test_the_factor_of_a_claim_is_the_ratio_of_bits_and_says_which_way() -> None:
    runs = cells("smollm2-mistral", "LAMBADA", **{"calibrated, ngram": cell(5, 6, 7), "mean": cell(10, 12, 14)})
    (found,) = comparisons(runs, {}, {})
    assert (found.factor, found.low, found.high) == pytest.approx((2, 2, 2))
    assert (found.claim.source, found.verdict) == ("this project", "held")
    other = cells("smollm2-mistral", "LAMBADA", **{"calibrated, ngram": cell(10, 12, 14), "mean": cell(5, 6, 7)})
    assert [one.verdict for one in comparisons(other, {}, {})] == ["the opposite"]
    even = cells("smollm2-mistral", "LAMBADA", **{"calibrated, ngram": cell(5, 7, 6), "mean": cell(5, 6, 7)})
    assert [one.verdict for one in comparisons(even, {}, {})] == ["no clear difference"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models; nothing is fetched."""
    monkeypatch.setattr(models, "KEPT", tmp_path)
    monkeypatch.setattr(models, "fetched", lambda name: tmp_path / name)
    return tmp_path


def test_a_swapped_model_is_made_once_and_kept_with_its_time_and_memory(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time is kept in tenths of a second.
    make = "out = pathlib.Path(sys.argv[2]); out.mkdir(); (out / 'model').write_text('rows')"
    write = f"import pathlib, sys, time; time.sleep(0.1); {make}"
    monkeypatch.setattr(swaps, "MERGEKIT", (sys.executable, "-c", write))
    made = swaps.swapped("smollm2-mistral", "mean")
    assert (made.folder / "model").read_text() == "rows"
    assert made.folder.parent == kept
    assert made.seconds > 0
    assert made.memory > 1_000_000
    monkeypatch.setattr(swaps, "MERGEKIT", ("no such command",))
    assert swaps.swapped("smollm2-mistral", "mean") == made


def test_the_recipe_of_a_row_names_the_folders_of_models(kept: Path) -> None:
    out = kept / "out"
    command = swaps._command(kept / "smollm2", kept / "mistral", out, {"method": "local", "auxiliary": "minilm"})
    assert command[-2:] == [str(kept / "out.yml"), str(out)]
    recipe = yaml.safe_load((kept / "out.yml").read_text())
    assert recipe["models"] == [{"model": str(kept / "smollm2")}]
    assert recipe["tokenizer"] == {
        "source": str(kept / "mistral"),
        "adapt": {"method": "local", "auxiliary": str(kept / "minilm")},
    }


def test_a_command_that_fails_leaves_no_model_and_its_last_line_in_the_results(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "TOKENSURGEON", (sys.executable, "-c", "import sys; sys.exit('first\\nno such dtype')"))
    assert tasks.run("smollm2-gemma", "tokensurgeon, omp", "LAMBADA", 3) == {"failed": "no such dtype"}
    assert list(kept.iterdir()) == []


def test_a_row_that_failed_is_on_the_page_and_in_no_table() -> None:
    key = key_of("smollm2-gemma", "tokensurgeon, omp", "LAMBADA", 3)
    runs = {**RUNS, key: {"failed": "no such dtype"}}
    runs = {name: {"boundaries_lost": 0, **found} for name, found in runs.items()}
    lines = tasks.page({"runs": runs, "setting": {"python": "3", "packages": {}}}, {}, {}).splitlines()
    assert "- smollm2-gemma, tokensurgeon, omp: `no such dtype`" in lines
    assert not [line for line in lines if line.startswith("## ") and "gemma" in line]


@pytest.mark.parametrize("needed", swaps.NEEDS_DONOR)
def test_a_row_that_needs_a_donor_is_possible_only_where_the_target_has_weights(needed: str) -> None:
    assert swaps.is_possible("smollm2-gemma", needed)
    assert not swaps.is_possible("smollm2-mistral", needed)


@pytest.mark.parametrize("step", stages.STEPS)
def test_the_clock_finds_every_step(step: str) -> None:
    """The clock replaces functions and properties by name, private ones too: a rename must be seen."""
    for owner, attribute in stages.STEPS[step]:
        assert attribute in vars(owner), f"{owner}.{attribute}"


def test_the_change_of_bits_per_byte_is_paired_by_document() -> None:
    base = [(100.0, 100), (900.0, 300), (40.0, 200), (5000.0, 1000)]
    one = [(bits + 0.25 * num_bytes, num_bytes) for bits, num_bytes in base]
    assert change(base, one) == pytest.approx((0.25, 0.25, 0.25))


def test_new_tokens_are_counted_from_the_first_new_id(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = zoo["byte-level"].definition
    texts = {"greeting": ("Hello, hello!", "Grüße"), "short": ("ü",)}
    monkeypatch.setattr(extension_cells, "counted_texts", lambda: texts)
    library = zoo["byte-level"].fast_tokenizer()
    ids = {name: [i for d in ds for i in library.encode(d, add_special_tokens=False).ids] for name, ds in texts.items()}
    first_new = sorted(ids["greeting"])[len(ids["greeting"]) // 2]
    found = extension_cells._counts(definition, first_new)
    assert found["bytes"] == {"greeting": 20, "short": 2}
    assert found["tokens"] == {name: len(of_text) for name, of_text in ids.items()}
    assert found["new"] == {name: len([i for i in of_text if i >= first_new]) for name, of_text in ids.items()}
    assert 0 < found["new"]["greeting"] < found["tokens"]["greeting"]


def test_of_two_processes_that_fetch_the_same_the_first_folder_stays_and_no_stage_is_left(tmp_path: Path) -> None:
    folder, stage = tmp_path / "model", samples._staging(tmp_path / "model")
    for place in (folder, stage):
        place.mkdir()
        (place / "config.json").write_text(place.name)
    samples._name(stage, folder)
    assert [place.name for place in tmp_path.iterdir()] == ["model"]
    assert (folder / "config.json").read_text() == "model"
    with pytest.raises(FileNotFoundError):
        samples._name(stage, tmp_path / "other")


# --- supertokens before and after healing --------------------------------------------------------


def test_saved_tokens_and_speed_are_ratios_of_sums_and_the_same_in_every_resample_of_equal_documents() -> None:
    base, one = {"tokens": [10, 20, 30]}, {"tokens": [5, 10, 15]}
    assert healed_page.saved_tokens(base, one) == pytest.approx(0.5)
    assert healed_page.saved_tokens(base, {"tokens": [10, 20, 15]})[0] == pytest.approx(0.25)
    slow = [{"bytes": 100, "seconds": 2.0}, {"bytes": 300, "seconds": 6.0}]
    fast = [{"bytes": 150, "seconds": 2.0}, {"bytes": 450, "seconds": 6.0}]
    assert healed_page.times_as_fast(slow, fast) == pytest.approx(1.5)


def test_the_text_to_learn_from_has_whole_documents_and_none_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = ["a" * 40, "b" * 500, "é" * 30, "c" * 10, "d" * 10]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    monkeypatch.setattr(healed, "LEARNED", tmp_path / "learned")
    monkeypatch.setattr(healed.debian_texts, "corpus", lambda name: (file, [], {}))
    monkeypatch.setattr(healed, "LEARNED_BYTES", 100)
    monkeypatch.setattr(healed, "LONGEST_DOCUMENT", 200)
    lines = healed.learned_from()["code"].read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a" * 40, "é" * 30]


def test_a_passage_is_from_the_middle_of_its_document() -> None:
    document = "a" * 700 + "b" * healed.PASSAGE + "c" * 700
    assert healed.middle(document) == "b" * healed.PASSAGE


def read_as(*bits: float, tokens: int, new: int = 0) -> dict:
    """What a model makes of a text of as many documents of 100 bytes."""
    return {"bits": list(bits), "bytes": [100] * len(bits), "tokens": [tokens] * len(bits), "new": [new] * len(bits)}


def healed_cells(model: str, tokens: int, new: int, *bits: float) -> dict[str, dict]:
    prompts = [{"bytes": 3 * tokens, "tokens": 20, "new": new, "seconds": 2.0, "text": ""}] * 2
    texts = {name: read_as(*bits, tokens=tokens, new=new) for name in ("held-out English", "held-out code")}
    return {
        f"healed | {model} | texts": texts,
        f"healed | {model} | writing": {"prompts": prompts},
        f"healed | {model} | LAMBADA": {**cell(*bits), "boundaries_lost": 1},
    }


def test_the_section_on_healing_compares_each_model_with_the_base_and_says_what_is_missing() -> None:
    runs = healed_cells(BASE, 40, 0, 100.0, 200.0) | healed_cells("mean", 20, 5, 125.0, 250.0)
    about = {"added": 8000, "learned from": {"English": 10_000_000}, "setting": {"packages": {}}}
    lines = healed_page.section(runs, about)
    assert "| held-out code | 200 | 2.50 | 5.00 | 50% [50%, 50%] | 25% |" in lines
    assert [line for line in lines if line.startswith("| mean | 1.875 (+0.375 [+0.250, +0.500])")]
    assert "| mean | 10.0 | 25% | 3.00 | 30 | 0.50 [0.50, 0.50] | 50 | 50 |" in lines
    assert "| mean | 80% [80%, 80%] | not measured | not measured | 1 |" in lines
    assert healed_page.section({}, {}) == []


def test_the_loss_beyond_the_base_model_is_told_apart_by_kinds_of_tokens() -> None:
    # The base model reads ab|cd|ef|g in tokens of 2, 2, 2 and 1 bytes, the swapped one ab|c|de|f|g.
    ids, ends, old_ends = np.array([0, 1, 2, 3, 4]), np.array([2, 3, 5, 6, 7]), np.array([2, 4, 6, 7])
    is_old, in_text = np.array([True, True, False, True, True]), np.array([True, False, True, False, False])
    kinds = causes._kinds(ids, ends, old_ends, is_old, in_text)
    assert [causes.CAUSES[n] for n in kinds] == [
        causes.SAME,
        causes.OTHERWISE,
        causes.SEEN,
        causes.OTHERWISE,
        causes.SAME,
    ]
    in_text[2] = False
    after_new = causes._kinds(np.array([2, 4]), np.array([3, 7]), np.array([2, 3, 7]), is_old, in_text)
    assert [causes.CAUSES[n] for n in after_new] == [causes.UNSEEN, causes.AFTER_NEW]
    spread = causes._spread(np.array([3.0, 4.0, 6.0, 5.0]), old_ends, ends)
    assert spread == pytest.approx([3, 2, 2 + 3, 3, 5])
