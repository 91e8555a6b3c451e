"""`tasks`: the call, the reading of its answer, and (slow) the harness itself next to our bits per byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.compare import CompareOptions, compare
from mergekit_tokenadapt.evaluation.tasks import TaskOptions, read_scores, run_tasks
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.texts import TextSet

ANSWER = {
    "results": {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.25, "acc_stderr,none": 0.05, "sample_len": 8},
        "gsm8k": {"exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": "N/A", "alias": "gsm8k"},
    }
}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the harness; the calls it gets."""
    calls: list[dict[str, Any]] = []

    class TaskManager:
        def __init__(self, include_path: str | None = None) -> None:
            self.all_tasks = ["arc_easy", "arc_challenge", "gsm8k"]

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return ANSWER

    module, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    module.simple_evaluate, module.__version__, tasks.TaskManager = simple_evaluate, "9.9", TaskManager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    return calls


def test_scores_are_read_with_their_errors() -> None:
    assert read_scores(ANSWER) == [
        {"task": "arc_easy", "metric": "acc", "value": 0.25, "standard_error": 0.05},
        {"task": "gsm8k", "metric": "exact_match (strict-match)", "value": 0.0, "standard_error": None},
    ]


def test_the_harness_gets_what_the_user_said(harness: list[dict[str, Any]], base: Path) -> None:
    folder = open_model(str(base))
    result = run_tasks([folder, folder], ["arc_easy"], TaskOptions(num_fewshot=2, limit=7, dtype="bfloat16"))
    assert len(harness) == len(result["models"]) == 2
    call = harness[0]
    assert call["model_args"] == {"pretrained": str(base), "dtype": "bfloat16", "trust_remote_code": False}
    assert (call["tasks"], call["num_fewshot"], call["limit"], call["device"]) == (["arc_easy"], 2, 7, "cpu")


def test_an_unknown_task_names_the_nearest(harness: list[dict[str, Any]], base: Path) -> None:
    with pytest.raises(TokenAdaptError, match="no task 'arc_eazy'; did you mean arc_easy"):
        run_tasks([open_model(str(base))], ["arc_eazy"])
    assert harness == []


Run = Callable[..., Result]


def test_a_missing_harness_is_named(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = run("tasks", base, "--tasks", "arc_easy")
    assert result.exit_code == 2
    assert "pip install 'mergekit-tokenadapt[lm-eval]'" in result.output


def test_scores_join_the_report_of_compare(
    harness: list[dict[str, Any]], run: Run, base: Path, out: Path, tmp_path: Path
) -> None:
    compared = run("compare", base, out, "--builtin", "arithmetic", "--max-bytes", 300, "--json", "--quiet")
    (tmp_path / "compare.json").write_text(compared.stdout)
    page = tmp_path / "report.html"
    arguments = ("tasks", base, out, "--tasks", "arc_easy,gsm8k", "--report", tmp_path / "compare.json")
    result = run(*arguments, "--html", page, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["command"] == "compare"
    assert report["tasks"]["models"][1]["scores"][0]["value"] == 0.25
    assert "0.2500 ± 0.0500" in page.read_text()
    printed = run(*arguments).stdout
    assert "Bits per byte" in printed
    assert "0.2500 ± 0.0500" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "report.html"], "--html needs --report"),
        (["--report", "/nowhere.json"], "there is no file '/nowhere.json'"),
        (["--report", "{other}"], "was not written by compare --json"),
        (["--report", "{stranger}"], "is about ./another, and none of them is scored here"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    harness: list[dict[str, Any]], run: Run, base: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "other.json").write_text('{"command": "check"}')
    (tmp_path / "stranger.json").write_text('{"command": "compare", "models": [{"name": "./another"}]}')
    files = {name: tmp_path / f"{name}.json" for name in ("other", "stranger")}
    result = run("tasks", base, "--tasks", "arc_easy", *[a.format(**files) for a in arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert harness == []


@pytest.mark.slow
def test_bits_per_byte_equal_those_of_the_harness(base: Path, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    documents = ["the river runs past the old mill", "brot und wasser " * 60, "Größe: 3 €. 🙂", "x"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    (tmp_path / "own.yaml").write_text(
        "task: own_text\ndataset_path: json\noutput_type: loglikelihood_rolling\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        'test_split: test\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n"
    )
    folders = [open_model(str(base)), open_model(str(out))]
    theirs = run_tasks(folders, ["own_text"], TaskOptions(include_path=tmp_path))
    # The harness does not let windows overlap.
    ours = compare(folders, [TextSet.of("own", documents, "test")], CompareOptions(window=128, stride=128))
    for model, scores in zip(ours["models"], theirs["models"], strict=True):
        (score,) = scores["scores"]
        assert score["value"] == pytest.approx(model["all"]["bits_per_byte"], abs=1e-4)
