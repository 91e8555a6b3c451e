"""Run tasks of lm-evaluation-harness (extra ``[lm-eval]``), and put its scores into our report."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.evaluation.options import TaskOptions
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import choose_device, choose_dtype
from mergekit_tokenadapt.tokenizer.files import read_json


def run_tasks(
    folders: Sequence[ModelFolder],
    tasks: Sequence[str],
    options: TaskOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run tasks on one model after another.

    Args:
        folders: the models.
        tasks: names of tasks.
        options: see `TaskOptions`.
        progress: is called with the name of each model before it runs.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: the harness is not installed or cannot be imported, does not know a task, or cannot load its
            data.
    """
    options = options or TaskOptions()
    with importing("lm_eval", extra="lm-eval", wanted_by="the command tasks"):
        import lm_eval
        from lm_eval.tasks import TaskManager
    manager = TaskManager(include_path=None if options.include_path is None else str(options.include_path))
    _check_names(tasks, manager.all_tasks)
    device = choose_device(options.device)
    dtype = str(choose_dtype(options.dtype, device)).removeprefix("torch.")
    models = []
    for folder in folders:
        progress(folder.name)
        try:
            found = lm_eval.simple_evaluate(
                model="hf",
                model_args={
                    "pretrained": str(folder.folder),
                    "dtype": dtype,
                    "trust_remote_code": folder.trust_remote_code,
                },
                tasks=list(tasks),
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                batch_size=options.batch_size or 1,
                device=str(device),
                log_samples=False,
                task_manager=manager,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:  # mostly because a data set cannot be loaded
            reason = first_line(error)
            raise TokenAdaptError(f"lm-evaluation-harness failed on {folder.name}: {reason}") from error
        models.append({"name": folder.name, "scores": read_scores(found)})
    return {
        "command": "tasks",
        "harness": str(getattr(lm_eval, "__version__", "unknown")),
        "settings": {
            "tasks": list(tasks),
            "num_fewshot": options.num_fewshot,
            "limit": options.limit,
            "device": str(device),
            "dtype": dtype,
        },
        "models": models,
    }


def _check_names(tasks: Sequence[str], known: Sequence[str]) -> None:
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; see lm-eval ls tasks"
            raise TokenAdaptError(f"lm-evaluation-harness has no task {task!r}{hint}")


def read_scores(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the harness's ``{"task": {"acc,none": 0.5, "acc_stderr,none": 0.1}}`` as a list, sorted by task and
    metric.
    """
    scores = []
    for task, metrics in sorted(found["results"].items()):
        for key, value in sorted(metrics.items()):
            metric, comma, which = key.partition(",")
            # Other keys are names, such as "alias", or standard errors, which belong to another key.
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = metrics.get(f"{metric}_stderr,{which}")
            scores.append(
                {
                    "task": task,
                    "metric": metric if which == "none" else f"{metric} ({which})",
                    "value": float(value),
                    "standard_error": float(error) if isinstance(error, (int, float)) else None,
                }
            )
    return scores


def check_report(report: Path, models: Sequence[str]) -> None:
    """Check, before models are scored, that a report is about them.

    Args:
        report: the JSON file that `compare` wrote.
        models: names of the models that will be scored.

    Raises:
        TokenAdaptError: the file does not exist, `compare` did not write it, or it is about none of the models.
    """
    named = [str(model["name"]) for model in _read_report(report)["models"]]
    if not {_place(name) for name in named} & {_place(name) for name in models}:
        raise TokenAdaptError(
            f"--report: {str(report)!r} is about {', '.join(named)}, and none of them is scored here: "
            "give these models, or another report"
        )


def _place(model: str) -> str:
    """Return what two names of one folder have in common; other names as they are."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def add_to_report(report: Path, tasks: dict[str, Any]) -> dict[str, Any]:
    """Read the result of `compare` from a JSON file, and return it with task scores.

    Raises:
        TokenAdaptError: the file does not exist, or `compare` did not write it.
    """
    return {**_read_report(report), "tasks": tasks}


def _read_report(report: Path) -> Mapping[str, Any]:
    if not report.is_file():
        raise TokenAdaptError(f"--report: there is no file {str(report)!r}")
    result = read_json(report)
    if result.get("command") != "compare":
        raise TokenAdaptError(f"--report: {str(report)!r} was not written by compare --json")
    return result
