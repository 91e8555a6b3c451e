"""Terminal report of the command `tasks`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mergekit_tokenadapt.terminal.tables import add_table, short_names


def print_tasks(console: Console, result: dict[str, Any]) -> None:
    """Print one row for each task and metric, with one column for each model."""
    add_table(console, title_of(result), *score_table(result))


def title_of(result: dict[str, Any]) -> str:
    """Return one line that says what was run."""
    s = result["settings"]
    limit = "" if s["limit"] is None else f", the first {s['limit']} examples of each"
    return f"Tasks of lm-evaluation-harness {result['harness']}{limit} ({s['device']}, {s['dtype']})"


def score_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows. A score is followed by its standard error if the harness gives one."""
    models = result["models"]
    rows = [
        [score["task"], score["metric"], *[_cell(model["scores"][n]) for model in models]]
        for n, score in enumerate(models[0]["scores"])
    ]
    return ["task", "metric", *short_names([m["name"] for m in models])], rows


def _cell(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")
