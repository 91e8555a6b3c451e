"""Terminal report of the command `tasks`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mergekit_tokenadapt.terminal.tables import add_table, short_names


def print_tasks(console: Console, result: dict[str, Any]) -> None:
    """Print one row for each task and metric, with one column for each model, and what the figures mean."""
    add_table(console, title_of(result), *score_table(result))
    for line in notes_of(result):
        console.print(line, markup=False, highlight=False)


def title_of(result: dict[str, Any]) -> str:
    """Return one line that says what was run."""
    s = result["settings"]
    where = f"({s['device']}, {s['dtype']})"
    if result["harness"] is None:
        limit = "" if s["limit"] is None else f", at most {s['limit']} documents of each, seed {s['seed']}"
        return f"Tasks from request files{limit} {where}"
    limit = "" if s["limit"] is None else f", the first {s['limit']} examples of each"
    return f"Tasks of lm-evaluation-harness {result['harness']}{limit} {where}"


def notes_of(result: dict[str, Any]) -> list[str]:
    """Return lines about the figures of request files; none for lm-evaluation-harness."""
    if result["harness"] is not None:
        return []
    notes = [
        "acc: share of documents whose right choice has the highest log probability; acc_bytes: the fewest bits per "
        "byte. bits_per_byte: of the right answers; lower is better. In brackets the 95 % interval over documents."
    ]
    for name, model in zip(short_names([m["name"] for m in result["models"]]), result["models"], strict=True):
        if model["boundaries_lost"]:
            notes.append(
                f"{name}: in {model['boundaries_lost']:,} answers a token crosses the end of the context; their bits "
                "are not exactly those of the answer."
            )
        if model["truncated"]:
            notes.append(f"{name}: {model['truncated']:,} texts were too long and were truncated at the beginning.")
        if model["prefixes_not_shared"]:
            notes.append(f"{name}: choices were scored without a shared prefix: {model['prefixes_not_shared']}.")
    return notes


def score_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows. A score is followed by its standard error or its interval, if there is one."""
    models = result["models"]
    rows = [
        [score["task"], score["metric"], *[_cell(model["scores"][n]) for model in models]]
        for n, score in enumerate(models[0]["scores"])
    ]
    return ["task", "metric", *short_names([m["name"] for m in models])], rows


def _cell(score: dict[str, Any]) -> str:
    if score.get("interval") is not None:
        low, high = score["interval"]
        return f"{score['value']:.4f} [{low:.4f}, {high:.4f}]"
    error = score["standard_error"]
    return f"{score['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")
