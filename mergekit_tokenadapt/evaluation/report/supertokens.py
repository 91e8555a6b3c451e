"""Terminal report of the command `supertokens report`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from mergekit_tokenadapt.evaluation.report.tables import print_texts
from mergekit_tokenadapt.terminal.tables import add_table, percent, quoted, say, short_names

PER_TEXT: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("Bytes per token", lambda t: f"{t['bytes_per_token']:.2f}"),
    ("Tokens that are supertokens (with a space between words)", lambda t: percent(t["supertoken_share"])),
    ("Renyi efficiency (alpha 2.5)", lambda t: f"{t['renyi_efficiency']:.3f}"),
    ("Documents that decode to themselves", lambda t: percent(t["exact_round_trips"])),
]
"""Title and cell function of every table that has a row for each text."""

RULES = {
    "digits": "digits beside something else",
    "lines": "line ends or indentation beside letters",
    "sentences": "two sentences",
    "scripts": "letters of several scripts",
}
"""Rule -> what the tokens that break it contain."""


def print_supertokens(console: Console, result: dict[str, Any]) -> None:
    """Print everything that `supertokens.report.describe` measured."""
    tokenizers = result["tokenizers"]
    names = short_names([t["name"] for t in tokenizers])
    print_texts(console, result["texts"], "Measured")
    texts = [text["name"] for text in result["texts"]]
    if len(tokenizers) > 1:
        rows = [[text, *[_fewer(tokenizers[0], other, text) for other in tokenizers[1:]]] for text in texts]
        add_table(console, f"Tokens of {names[0]}, against", ["text", *names[1:]], rows)
    for title, cell in PER_TEXT:
        rows = [[text, *[cell(t["compression"][text]) for t in tokenizers]] for text in texts]
        add_table(console, title, ["text", *names], rows)
    rows = [[code, *[f"{t['parity'][code]:.2f}" for t in tokenizers]] for code in tokenizers[0]["parity"]]
    add_table(console, "Parity: tokens for the same text, en = 1", ["language", *names], rows)
    _print_safety(console, names[0], tokenizers)


def _fewer(one: dict[str, Any], other: dict[str, Any], text: str) -> str:
    change = one["compression"][text]["tokens"] / other["compression"][text]["tokens"] - 1
    return f"{100 * change:+.1f} %"


def _print_safety(console: Console, name: str, tokenizers: list[dict[str, Any]]) -> None:
    safety = tokenizers[0]["safety"]
    which = "tokens that the others lack" if len(tokenizers) > 1 else "tokens"
    rows = [
        [which, f"{safety['tokens_looked_at']:,}", ""],
        ["supertokens", f"{safety['supertokens']:,}", ""],
        ["never produced", *_cells(safety["unreachable"])],
        *[[f"with {RULES[rule]}", *_cells(found)] for rule, found in safety["crossing"].items()],
        *[[f"with {n} words", f"{count:,}", ""] for n, count in safety["words_in_a_token"].items() if int(n) > 1],
    ]
    add_table(console, f"Safety of {name}", ["", "tokens", "for instance"], rows)
    say(console, "Longest: " + " ".join(quoted(label) for label in safety["longest"]))


def _cells(found: dict[str, Any]) -> list[str]:
    return [f"{found['number']:,}", " ".join(quoted(label) for label in found["for_instance"])]
