"""Terminal report of the command `tokenizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from mergekit_tokenadapt.evaluation.report.tables import lost_notes, marked, print_texts
from mergekit_tokenadapt.terminal.tables import add_table, percent, say, short_names

PER_TEXT: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("Bytes per token", lambda t: f"{t['bytes_per_token']:.2f}"),
    ("Characters per token", lambda t: f"{t['characters_per_token']:.2f}"),
    ("Fertility (tokens per word)", lambda t: _or_dash(t["fertility"], "{:.2f}")),
    (
        "Words that are a single token",
        lambda t: "-" if t["single_token_words"] is None else percent(t["single_token_words"]),
    ),
    ("Renyi efficiency (alpha 2.5)", lambda t: f"{t['renyi_efficiency']:.3f}"),
    ("Token boundaries inside a character", lambda t: percent(t["boundaries_inside_characters"])),
    ("Documents that decode to themselves", lambda t: percent(t["exact_round_trips"])),
]
"""Title and cell function of every table that has a row for each text."""


def print_tokenizers(console: Console, result: dict[str, Any]) -> None:
    """Print everything that `describe_tokenizers` measured."""
    tokenizers = result["tokenizers"]
    names = short_names([t["name"] for t in tokenizers])
    print_texts(console, result["texts"])
    for title, cell in PER_TEXT:
        rows = [
            [text["name"], *[marked(cell(one), one) for t in tokenizers for one in [t["texts"][text["name"]]]]]
            for text in result["texts"]
        ]
        add_table(console, title, ["text", *names], rows)
    for line in lost_notes(names, tokenizers):
        say(console, line + "\n")
    print_texts(console, result["parallel_texts"], "Parallel text, for parity and words")
    _print_maps(
        console, f"Parity: tokens for the same text, {result['reference']} = 1", names, tokenizers, "parity", "{:.2f}"
    )
    _print_vocabulary(console, names, tokenizers)
    if result["word_note"]:
        say(console, result["word_note"] + "\n")
    title = "Distinct tokens of a language's text that are words of it (%TR, wordfreq)"
    _print_maps(console, title, names, tokenizers, "word_share", "{:.1%}")
    _print_maps(console, "Distinct tokens in the list given (%Pure)", names, tokenizers, "unit_share", "{:.1%}")
    _print_mixtures(console, names, tokenizers, result["mixture_texts"])


def _print_vocabulary(console: Console, names: list[str], tokenizers: list[dict[str, Any]]) -> None:
    habits = [t["habits"] for t in tokenizers]
    rows = [
        ["tokens", *[f"{t['make_up']['tokens']:,}" for t in tokenizers]],
        ["highest id", *[f"{t['make_up']['highest_id']:,}" for t in tokenizers]],
        ["used by these texts", *[percent(t["vocabulary_use"]) for t in tokenizers]],
        ["digits", *[h["digits"] for h in habits]],
        ["longest token of spaces", *[str(h["longest_spaces"]) for h in habits]],
        ["longest token of line ends", *[str(h["longest_newlines"]) for h in habits]],
        ["longest token of tabs", *[str(h["longest_tabs"]) for h in habits]],
        ["space between words", *[h["space_between_words"] for h in habits]],
    ]
    add_table(console, "Vocabulary and habits", ["", *names], rows)
    for key, title in (("kinds", "Vocabulary by kind"), ("scripts", "Tokens with letters by script")):
        found = [t["make_up"][key] for t in tokenizers]
        labels = sorted({label for counts in found for label in counts}, key=lambda x: -max(c.get(x, 0) for c in found))
        shown = labels[:20]
        rows = [[label, *[f"{counts.get(label, 0):,}" for counts in found]] for label in shown]
        if len(labels) > len(shown):
            rest = [sum(counts.get(label, 0) for label in labels[len(shown) :]) for counts in found]
            rows.append([f"{len(labels) - len(shown)} more", *[f"{n:,}" for n in rest]])
        add_table(console, title, ["", *names], rows)


def _print_maps(
    console: Console, title: str, names: list[str], tokenizers: list[dict[str, Any]], key: str, form: str
) -> None:
    """Print a table of a measure that is a mapping from language to number. An empty mapping prints nothing."""
    languages = list(tokenizers[0][key])
    if languages:
        rows = [[language, *[form.format(t[key][language]) for t in tokenizers]] for language in languages]
        add_table(console, title, ["language", *names], rows)


def _print_mixtures(
    console: Console, names: list[str], tokenizers: list[dict[str, Any]], samples: list[dict[str, Any]]
) -> None:
    mixtures = [t["mixture"] for t in tokenizers]
    if not samples:
        return
    print_texts(console, samples, "Samples of the categories")
    rows = [[s["name"], *[percent(m["shares"][s["name"]]) for m in mixtures]] for s in samples]
    rows.append(["merges looked at", *[str(m["merges"]) for m in mixtures]])
    rows.append(["not in the samples", *[str(m["unseen"]) for m in mixtures]])
    add_table(console, "Estimated training mixture, by bytes (linear programme over merge order)", ["", *names], rows)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
