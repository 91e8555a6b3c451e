"""docs/quality.md, from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import models
from benchmarks.common.earlier import COMMIT, EARLIER
from benchmarks.common.gaps import bits_per_byte, gap_closed, gap_interval
from benchmarks.common.results import in_words
from benchmarks.quality.cases import BASE, DOMAINS, MAX_BYTES, METHODS, PAIRS, TEXT_SETS, key_of
from benchmarks.quality.claim import claim_section

INTRODUCTION = """# Quality of the rows

Figures are bits per byte after the swap, without training; lower is better. In brackets: gap closed = (mean - method) /
(mean - base), where each term is in bits per byte, with a 95% interval from a paired bootstrap over documents. `mean`
is the method of that name, and `base` is the original model in its own tokens. The command
`python -m benchmarks.quality` makes this page. The bits and bytes of every document are in
[results/quality.json](../benchmarks/results/quality.json).

There are two sets of texts. No fit has seen either of them. The first set comes from other sources than the calibration
text: the evaluation's built-in texts (the first documents of each, until there are {max_bytes:,} bytes or more). The
second set comes from the same sources as the calibration text: other chapters of the manual, other modules of the
library, other sums. It shows what to expect if the calibration text is like the text that the model will read. Some
constants of `calibrated` were chosen on these sources: [findings.md](findings.md). There are few documents, so
the intervals are probably too narrow.

The names in the tables say how the rows were made. [methods.md](methods.md) explains the methods.

- `ngram`, `MiniLM`: the auxiliary space in which similar tokens are searched.
- `word vectors`, `wechsel`: the vectors were trained on the calibration text, and all its languages share one space.
- `wechsel, pieces`: tokens without a vector are the mean of their pieces, and not random as with `wechsel`.
- `200 KB of text`, `1 MB of text`: output rows were corrected with that much text (`calibration_text`).
- `then gradients`: all vocabulary rows were trained on the same text instead, with the rest of the model frozen.
- `untied`: the model got separate input and output matrices (`untie`).
- `donor`: the target is a model with weights (Gemma or SmolLM2), and its rows were used, too.
- `where the texts need it`: `omp` made the rows of the new tokens that occur in the texts, `calibrated` the other rows.
- `one text`: the text of `calibration_text`, as both tokenizers segment it.
- `tokensurgeon`: mergekit-tokensurgeon with that approximation method.
- An asterisk marks rows with `ngram` that were made by commit {earlier}, when this space kept line ends around a token
  and marked case and leading spaces.

Seconds are the wall time of the whole swap, on one or two cores. The machine had other work at the same time. Rows with
`ngram` and without an asterisk were measured on another processor than all others, with AVX2 and without 8-bit
products, which is about half as fast. Versions: {versions}.
"""
Runs = dict[str, dict[str, Any]]
"""Of one pair: method to what was measured. Of the results file: pair, method and bytes to that."""


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    versions = in_words(results["setting"]["packages"])
    lines = [INTRODUCTION.format(max_bytes=MAX_BYTES, versions=versions, earlier=COMMIT)]
    for text_set, heading in TEXT_SETS.items():
        found = {pair: runs_of_pair(results["runs"], pair, text_set) for pair in PAIRS}
        found = {pair: runs for pair, runs in found.items() if runs}
        lines += [f"## {heading}", *summary_table(found, text_set)]
        for pair, runs in found.items():
            lines += pair_table(runs, pair, text_set)
        lines.append("")
        if text_set == "domains":
            lines += [*claim_section(found, text_set), ""]
    return "\n".join(lines)


def runs_of_pair(runs: Runs, pair: str, text_set: str) -> Runs:
    """Return the runs of a pair by method. The result is empty without runs of the base model and of `mean`."""
    found = {m: run for m in (BASE, *METHODS) if (run := runs.get(key_of(pair, m, MAX_BYTES)))}
    found = {m: run for m, run in found.items() if text_set in run or "failed" in run}
    return found if BASE in found and "mean" in found else {}


def summary_table(found: dict[str, Runs], text_set: str) -> list[str]:
    """Return a table of the gap closed by every method on every pair, and of means over pairs that are complete."""
    groups = {" with ".join(PAIRS[pair]): [pair] for pair in found}
    for base in dict.fromkeys(PAIRS[pair][0] for pair in found):
        groups[f"{base}, mean"] = [pair for pair in found if PAIRS[pair][0] == base]
    if list(found) not in groups.values():
        groups["all, mean"] = list(found)
    lines = ["", f"| gap closed, mean of domains | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for method in METHODS:
        measured = [pair for pair, runs in found.items() if method in runs and "failed" not in runs[method]]
        gaps = {pair: mean_gap(found[pair], method, text_set) for pair in measured}
        if gaps and method != "mean":
            cells = (
                f"{np.mean([gaps[pair] for pair in pairs]):.0%}{mark(*(found[pair][method] for pair in pairs))}"
                if gaps.keys() >= set(pairs)
                else ""
                for pairs in groups.values()
            )
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def mark(*runs: Mapping[str, Any]) -> str:
    """An asterisk where one of the runs was measured with the earlier n-grams."""
    return "\\*" if any(run.get(EARLIER) for run in runs) else ""


def mean_gap(runs: Runs, method: str, text_set: str) -> float:
    """Return the gap closed, as the mean of the domains."""
    scores = [runs[m][text_set] for m in (BASE, "mean", method)]
    return float(np.mean([gap_closed(*(of_domain[domain] for of_domain in scores)) for domain in DOMAINS]))


def pair_table(runs: Runs, pair: str, text_set: str) -> list[str]:
    """The lines of one pair's table."""
    base, target = (models.title(name) for name in PAIRS[pair])
    counts = runs["mean"]["rows_by_reason"]
    share = counts["new"] / sum(counts[reason] for reason in ("copied", "special", "new", "padding"))
    names = list(DOMAINS.values())
    lines = ["", f"### {base} with the tokenizer of {target} ({share:.0%} of the tokens new)", ""]
    lines += ["| rows | " + " | ".join(names) + " | gap closed, mean of domains | seconds |"]
    lines += ["|---" * (len(names) + 3) + "|"]
    for method, one in runs.items():
        if "failed" in one:
            lines.append(f"| {method} | fails: {one['failed'][:100]}" + " |" * (len(names) + 2))
            continue
        cells, average = {domain: f"{bits_per_byte(one[text_set][domain]):.3f}" for domain in DOMAINS}, ""
        if method not in (BASE, "mean"):
            cells = {domain: f"{cell} ({gap_shown(runs, method, text_set, domain)})" for domain, cell in cells.items()}
            average = f"**{mean_gap(runs, method, text_set):.0%}**{mark(one)}"
        lines.append(f"| {method} | " + " | ".join(cells.values()) + f" | {average} | {one.get('seconds', '')} |")
    return lines


def gap_shown(runs: Runs, method: str, text_set: str, domain: str) -> str:
    """Return the gap closed in a domain and its 95% interval, as text."""
    scores = [runs[m][text_set][domain] for m in (BASE, "mean", method)]
    low, high = gap_interval(*scores)
    return f"{gap_closed(*scores):.0%}, {low:.0%} to {high:.0%}"
