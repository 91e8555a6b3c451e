"""Print the report of a tokenizer swap (`change_report`) for a reader."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from mergekit_tokenadapt.terminal.tables import add_table, say, signed
from mergekit_tokenadapt.texts.builtin import BUILTIN, LANGUAGES

MEANING = {
    "copied": "the old row of the same bytes, bit for bit",
    "special": "the old row of their counterpart",
    "composed": "computed from old rows",
    "drawn": "not made from their text: drawn at random, or zero",
    "mean": "the mean row: special tokens without a counterpart, tokens without pieces, byte twins",
    "padding": "the mean row; they have no token and are never the most likely",
}
"""Kind of row -> its explanation in the printed table."""
TEMPLATES = {"target": "the new tokenizer's", "before": "the old one", "none": "none"}
"""Origin of the chat template -> the words for it."""
SHOWN = 12
"""Largest number of special tokens without a role that are listed one by one."""


def print_report(report: Mapping[str, Any], title: str, console: Console | None = None) -> None:
    """Print a report.

    Args:
        report: the result of `change_report`. Its key ``further_inputs`` may hold token counts of further input models,
            and its key ``extension`` the record of an extension (see `OutputFolder.extension`).
        title: the heading of the table of tokens.
        console: where to print; None prints on standard output.
    """
    console = console or Console()
    for name, tokens in {title: report["tokens"], **report.get("further_inputs", {})}.items():
        rows = [[kind, f"{number:,}", MEANING[kind]] for kind, number in tokens.items()]
        add_table(console, name, ["tokens", "number", "their rows are"], rows, words=(0, 2))
    _print_texts(console, report["texts"])
    _print_lines(console, report)


def next_commands(out: str, base: str) -> list[str]:
    """Return shell commands that check and measure the output of a transplant.

    >>> next_commands("./my out", "./model")[0]
    "mergekit-tokenadapt-eval check './my out' --base ./model"
    >>> next_commands("out", "./model+./adapter")[0]  # the merged base is nowhere on disk, so nothing can be compared
    'mergekit-tokenadapt-eval check out'
    """
    model, _, adapter = (base, "", "") if os.path.exists(base) else base.partition("+")
    out, model = shlex.quote(out), shlex.quote(model)
    against = "" if adapter else f" --base {model}"
    return [f"mergekit-tokenadapt-eval check {out}{against}", f"mergekit-tokenadapt-eval compare {model} {out}"]


def as_text(report: Mapping[str, Any], title: str) -> str:
    """Return the printed report as plain text, for a log."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_report(report, title, console)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined, no-any-return]


def _print_texts(console: Console, texts: Mapping[str, Any]) -> None:
    """Print tokens per byte of each text; for languages, of all together and of the two that change most."""
    languages = [texts[name] for name in LANGUAGES]
    together = {
        "bytes": sum(text["bytes"] for text in languages),
        **{when: _sum([text[when] for text in languages]) for when in ("before", "after")},
    }
    shown = [_row(BUILTIN[name], text) for name, text in texts.items() if name not in LANGUAGES]
    shown += [_row(f"{len(languages)} languages", together)]
    changes = sorted((c, name) for name in LANGUAGES if (c := _change(texts[name])) is not None)
    if changes and changes[0][0] < changes[-1][0]:
        for which, (_, name) in (("fewest", changes[0]), ("most", changes[-1])):
            shown.append(_row(f"  {which}: {LANGUAGES[name]}", texts[name]))
    add_table(console, "Tokens per byte of the built-in texts", ["text", "before", "after", "change"], shown)


def _sum(counts: list[Any]) -> dict[str, Any]:
    return {"tokens": sum(c["tokens"] for c in counts), "is_exact": all(c["is_exact"] for c in counts)}


def _row(name: str, text: Mapping[str, Any]) -> list[str]:
    cells = [
        f"{text[when]['tokens'] / text['bytes']:.3f}" + ("" if text[when]["is_exact"] else " (loses text)")
        for when in ("before", "after")
    ]
    change = _change(text)
    return [name, *cells, "" if change is None else f"{signed(100 * change, 1)} %"]


def _change(text: Mapping[str, Any]) -> float | None:
    """Return the relative change of the number of tokens; None if a tokenizer loses text and cannot be compared."""
    before, after = text["before"], text["after"]
    if not (before["is_exact"] and after["is_exact"] and before["tokens"]):
        return None
    return float(after["tokens"] / before["tokens"] - 1)


def _print_lines(console: Console, report: Mapping[str, Any]) -> None:
    rows, digits, template = report["rows"], report["digits"], report["chat_template"]
    lines = {
        **_extension(report.get("extension")),
        "rows": f"{rows['before']:,} -> {rows['after']:,}" if rows["before"] else f"{rows['after']:,}",
        "digits": f"{digits['before']} -> {digits['after']}",
        "chat template": _template(template),
        **_special_lines(report["special_tokens"]),
    }
    for name, value in lines.items():
        say(console, f"{name + ':':36}{value}")


def _extension(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Say how many tokens were appended to the base's tokenizer; nothing if it was replaced."""
    if record is None:
        return {}
    told = f"{record['appended']:,} of {record['tokens_of']}"
    if record["needed_by_merges"]:
        told += f", and {record['needed_by_merges']:,} parts of them that merges need"
    return {"appended tokens": told}


def _template(template: Mapping[str, Any]) -> str:
    whose = TEMPLATES.get(template["is_that_of"], template["is_that_of"])
    stray = template["markers_that_are_not_one_token"]
    return f"{whose}; markers in it that are not one token: {', '.join(stray)}" if stray else str(whose)


def _special_lines(tokens: list[Any]) -> dict[str, str]:
    """List tokens with a role, then further tokens with a counterpart, then the number of those without one."""
    lines = {f"{t['role']} {t['token']}": _row_of(t) for t in tokens if t["role"]}
    others = [t for t in tokens if not t["role"]]
    found = [t for t in others if not _is_mean(t)]
    lines |= {f"special {t['token']}": _row_of(t) for t in found[:SHOWN]}
    if len(found) > SHOWN:
        lines["more special tokens with a row"] = f"{len(found) - SHOWN:,}"
    if len(others) > len(found):
        lines["special tokens without counterpart"] = f"{len(others) - len(found):,}: the mean row"
    return lines


def _is_mean(token: Mapping[str, Any]) -> bool:
    return bool(token["row_of"] == "the mean row")


def _row_of(token: Mapping[str, Any]) -> str:
    return str(token["row_of"]) if _is_mean(token) else f"row of {token['row_of']}"
