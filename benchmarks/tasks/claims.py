"""Claims that one method is better than another, checked against what the benchmarks measured.

The check needs bits and bytes of documents of several kinds, scored with both methods. For each kind, the bits per byte
of the method that should be worse are divided by those of the method that should be better. The factor is the geometric
mean over kinds. Its interval is that of a paired bootstrap over documents. It does not say what another seed of
training would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.gaps import RESAMPLES, Scores, bits_per_byte, counts_of
from benchmarks.healing.cells import TAUGHT
from benchmarks.quality.cases import PAIRS as QUALITY_PAIRS
from benchmarks.quality.claim import CLAIMED, factors
from benchmarks.quality.page import runs_of_pair
from benchmarks.tasks.cases import TASKS
from benchmarks.tasks.shares import Runs, measured
from mergekit_tokenadapt.evaluation.bootstrap import interval

Kinds = Mapping[str, Scores]
"""Kind of text, or task, to bits and bytes of each document."""
TEXTS = "domains"
"""The texts of quality.md that are of other sources than the calibration text."""


class Claim(NamedTuple):
    """A claim, and the two results to compare: in the results of quality, of tasks, and of healing."""

    source: str
    says: str
    quality: tuple[tuple[str, str], ...] = ()
    tasks: tuple[tuple[str, str], ...] = ()
    healing: tuple[tuple[str, str], ...] = ()


_MINILM = (("hybrid, MiniLM", "mean"),)
_NGRAM = (("hybrid, ngram", "mean"),)
_TAUGHT_15 = "healed 15 minutes, all passages taught"
_NEXT_TOKEN = "calibrated, untied, next-token training for 15 minutes"
CLAIMS = (
    Claim("TokenAdapt, 2505.09738", "`hybrid` is better than ReTok (`mean`)", _MINILM + _NGRAM, _MINILM + _NGRAM),
    Claim(
        "TokenAdapt, 2505.09738",
        "`hybrid` is better than TransTokenizer (`parallel`, here with one text)",
        (("hybrid, MiniLM", "parallel, one text"),),
        (("hybrid, MiniLM", "parallel, one text"),),
    ),
    Claim(
        "mergekit-tokensurgeon, 2506.06607",
        "`omp` is better than means of pieces",
        (("omp, donor, where the texts need it", "mean"),),
        (("tokensurgeon, omp", "mean"), ("tokensurgeon, omp", "tokensurgeon, subword")),
    ),
    Claim(
        "ALM, 2503.20083",
        "its loss is better than next-token training",
        tasks=(("calibrated, untied, ALM's loss for 15 minutes", _NEXT_TOKEN),),
        healing=(("calibrated, untied | chunks | 15 minutes", "calibrated, untied | next-token | 15 minutes"),),
    ),
    Claim("Hewitt 2021", "rows near the mean of all rows are better than random ones", (("hewitt", "random"),)),
    Claim(
        "this project",
        "`calibrated` is better than `mean`",
        (("calibrated, ngram", "mean"),),
        (("calibrated, ngram", "mean"), ("calibrated, ngram, untied", "mean")),
    ),
    Claim(
        "this project",
        "`calibrated` is better than `hybrid` with MiniLM",
        (("calibrated, ngram", "hybrid, MiniLM"),),
        (("calibrated, ngram, untied", "hybrid, MiniLM"),),
    ),
    Claim(
        "this project",
        "healing that starts from `calibrated --untie` is better than from `mean`",
        tasks=((f"calibrated, untied, {_TAUGHT_15}", f"mean, {_TAUGHT_15}"),),
        healing=((f"calibrated, untied | {TAUGHT} | 15 minutes", f"mean | {TAUGHT} | 15 minutes"),),
    ),
    Claim(
        "this project",
        "`heal` is better than next-token training",
        tasks=(("calibrated, untied, healed 15 minutes", _NEXT_TOKEN),),
        healing=(("calibrated, untied | default | 15 minutes", "calibrated, untied | next-token | 15 minutes"),),
    ),
)
HEADING = """## Which claims held

Papers measure on their own models, which are larger than these. A factor above 1 agrees with a claim: so many times the
bits per byte of the first method does the second one cost, as the geometric mean over texts or tasks. A claim held in a
comparison where the factor's 95% interval is above 1. Where it is below 1, the opposite was measured.
[Comparisons](#comparisons) lists them all.
"""
COMPARISONS = """## Comparisons

Texts are those of [quality.md](quality.md) and [healing-measured.md](healing-measured.md), of other sources than any
text that was learned from. Of tasks, the right answers' bits per byte are taken. Each training was run once, and the
interval does not tell what another run would give.

| whose | claim | measured on | compared | factor | |
|---|---|---|---|---|---|"""


class Comparison(NamedTuple):
    """A claim, and what one measurement says of it."""

    claim: Claim
    where: str
    better: str
    worse: str
    factor: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval is above 1, below it, or around it."""
        return "held" if self.low > 1 else "the opposite" if self.high < 1 else "no clear difference"


def comparisons(tasks: Runs, quality: Mapping[str, Any], healing: Mapping[str, Any]) -> list[Comparison]:
    """Everything measured that a claim is about.

    Args:
        tasks: cells of the tasks.
        quality: the results of `benchmarks.quality`; may be empty.
        healing: the results of `benchmarks.healing`; may be empty.
    """
    found = {"quality": _of_quality(quality), "tasks": _of_tasks(tasks), "healing": _of_healing(healing)}
    return [Comparison(claim, *rest) for claim in CLAIMS for rest in _comparisons(claim, found)]


def claims(found: Sequence[Comparison], quality: Mapping[str, Any]) -> list[str]:
    """The lines of the section: what became of each claim."""
    lines = []
    for claim in CLAIMS:
        ours = [comparison for comparison in found if comparison.claim == claim]
        if not ours:
            lines.append(f"- {claim.source}: {claim.says}. Not measured.")
            continue
        verdicts = [comparison.verdict for comparison in ours]
        factors = [comparison.factor for comparison in ours]
        counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
        spread = f"{min(factors):.2f} to {max(factors):.2f}" if len(ours) > 1 else f"{factors[0]:.2f}"
        of = f"of {len(ours)} comparisons" if len(ours) > 1 else "comparison"
        lines.append(f"- {claim.source}: {claim.says}. **{counts[0].upper()}{counts[1:]}** {of}; factor {spread}.")
    return [HEADING, *lines, *_two_fold(quality), ""]


def comparison_table(found: Sequence[Comparison]) -> list[str]:
    """The lines of the section with all comparisons."""
    rows = [
        f"| {c.claim.source} | {c.claim.says} | {c.where} | {_shown(c.better)} against {_shown(c.worse)} | "
        f"{c.factor:.3f} ({c.low:.3f} to {c.high:.3f}) | {c.verdict} |"
        for c in found
    ]
    return [COMPARISONS, *rows, ""]


def _comparisons(
    claim: Claim, found: Mapping[str, dict[str, dict[str, Kinds]]]
) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Where, the two rows, and the factor with its interval, of all that was measured."""
    for question, places in found.items():
        for where, rows in places.items():
            for better, worse in getattr(claim, question):
                kinds = sorted(rows.get(better, {}).keys() & rows.get(worse, {}).keys())
                if kinds:
                    yield where, better, worse, *_factor(rows[better], rows[worse], kinds)


def _two_fold(quality: Mapping[str, Any]) -> list[str]:
    found = [factor for runs in _quality_runs(quality).values() for *_, (factor, _, _) in factors(runs, TEXTS)]
    if not found:
        return []
    reached = sum(factor >= CLAIMED for factor in found)
    return [
        f"- TokenAdapt, 2505.09738: the perplexity ratio of `hybrid` is at least {CLAIMED:g} times better than that of "
        f"ReTok and TransTokenizer. **Held in {reached}** of {len(found)} comparisons; factor of ratios "
        f"{min(found):.2f} to {max(found):.2f} ([quality.md](quality.md))."
    ]


def _factor(better: Kinds, worse: Kinds, kinds: list[str]) -> tuple[float, float, float]:
    random = np.random.default_rng(0)
    logs = np.zeros(1 + RESAMPLES)
    for kind in kinds:
        counts = counts_of(len(better[kind]), random)
        logs += np.log(bits_per_byte(worse[kind], counts) / bits_per_byte(better[kind], counts)) / len(kinds)
    low, high = interval(np.exp(logs[1:]))
    return float(np.exp(logs[0])), low, high


def _shown(row: str) -> str:
    """A row's name without the mark that tables have between columns."""
    return row.replace(" | ", ", ")


def _quality_runs(quality: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Pair to method to what was measured."""
    found = {pair: runs_of_pair(quality.get("runs", {}), pair, TEXTS) for pair in QUALITY_PAIRS}
    return {pair: runs for pair, runs in found.items() if runs}


def _of_quality(quality: Mapping[str, Any]) -> dict[str, dict[str, Kinds]]:
    return {
        f"texts, {pair}": {method: run[TEXTS] for method, run in runs.items() if TEXTS in run}
        for pair, runs in _quality_runs(quality).items()
    }


def _of_tasks(runs: Runs) -> dict[str, dict[str, Kinds]]:
    found: dict[str, dict[str, dict[str, Scores]]] = {}
    for key, cell in measured(runs).items():
        pair, row, task, documents = key.split(" | ")
        if task in TASKS:
            parts = cell["metrics"]["bits_per_byte"]
            scores = list(zip(parts["above"], parts["below"], strict=True))
            found.setdefault(f"tasks, {pair}, {documents} documents", {}).setdefault(row, {})[task] = scores
    return {where: dict(rows) for where, rows in found.items()}


def _of_healing(healing: Mapping[str, Any]) -> dict[str, dict[str, Kinds]]:
    found: dict[str, dict[str, Kinds]] = {}
    for key, run in healing.get("runs", {}).items():
        pair, name = key.split(" | ", 1)
        found.setdefault(f"texts after healing, {pair}", {})[name] = run["scores"]
    return found
