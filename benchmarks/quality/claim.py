"""The claim of the TokenAdapt paper: the perplexity ratio of `hybrid` is half of its rivals' or less.

The perplexity ratio of a method is the perplexity after the swap, divided by that of the base model. Perplexities per
token of two vocabularies cannot be compared, so both are taken per token of the base model: the text's bits are divided
by the number of tokens that the base's tokenizer makes of it. Over domains, the geometric mean is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common.gaps import RESAMPLES, Scores, bits_per_byte, counts_of
from benchmarks.quality.cases import BASE, DOMAINS, PAIRS

RIVALS = {"mean": "ReTok", "parallel, one text": "TransTokenizer"}
"""Row of the tables to the method that the paper compares with. Without parallel text, one text has to do."""
HYBRIDS = ("hybrid, MiniLM", "hybrid, ngram")
"""The paper's method; with sentence embeddings as in its code, or without."""
CLAIMED = 2.0
HEADING = """## The paper's claim of a 2-fold better ratio

The TokenAdapt paper (arXiv 2505.09738) claims that the perplexity ratio of `hybrid` is at least 2 times better than
that of its rivals, ReTok (`mean` here) and TransTokenizer (`parallel` here, with one text for both tokenizers). The
paper's models are larger. A perplexity ratio is the perplexity after the swap divided by that of the base model. Both
are per token of the base model here, because perplexities per token of two vocabularies cannot be compared. Over the
five domains, the geometric mean is taken. The factor is the rival's ratio divided by that of `hybrid`, with a 95%
interval from a paired bootstrap over documents. The texts are those of the table above.
"""


def claim_section(found: dict[str, dict[str, dict[str, Any]]], text_set: str) -> list[str]:
    """The lines of the section.

    Args:
        found: pair to method to what was measured.
        text_set: the texts.
    """
    rows, held = [], []
    for pair, runs in found.items():
        for hybrid, rival, (factor, low, high) in factors(runs, text_set):
            ratios = [2 ** _excess(runs, method, text_set)[0] for method in (rival, hybrid)]
            held.append(factor >= CLAIMED)
            rows.append(
                f"| {' with '.join(PAIRS[pair])} | {hybrid} | {rival} ({RIVALS[rival]}) | {ratios[1]:.2f} | "
                f"{ratios[0]:.2f} | {factor:.2f} ({low:.2f} to {high:.2f}) |"
            )
    result = f"**The factor reaches {CLAIMED:g} in {sum(held)} of {len(held)} comparisons.**"
    heads = "| pair | hybrid | rival | ratio of hybrid | ratio of the rival | factor |"
    return [HEADING, result, "", heads, "|---" * 6 + "|", *rows]


def factors(runs: dict[str, Any], text_set: str) -> list[tuple[str, str, tuple[float, float, float]]]:
    """Each row of `hybrid` and each rival that a pair has, and the factor between their ratios with its interval."""
    return [
        (hybrid, rival, _factor(runs, rival, hybrid, text_set))
        for hybrid in HYBRIDS
        for rival in RIVALS
        if hybrid in runs and rival in runs
    ]


def _factor(runs: dict[str, Any], rival: str, hybrid: str, text_set: str) -> tuple[float, float, float]:
    """The rival's perplexity ratio divided by that of `hybrid`, and its interval."""
    from mergekit_tokenadapt.evaluation.bootstrap import interval

    of_rival, of_hybrid = (_excess(runs, method, text_set) for method in (rival, hybrid))
    difference = of_rival - of_hybrid
    low, high = interval(difference[1:])
    return float(2 ** difference[0]), 2**low, 2**high


def _excess(runs: dict[str, Any], method: str, text_set: str) -> np.ndarray:
    """Bits per token of the base model above the base's, mean of domains: measured, then for each resample [1 + S]."""
    random = np.random.default_rng(0)  # the same resamples for every method
    total = np.zeros(1 + RESAMPLES)
    for domain in DOMAINS:
        base, one = (runs[m][text_set][domain] for m in (BASE, method))
        counts = counts_of(len(base), random)
        bytes_per_token = _bytes(base) / runs[BASE]["tokens"][text_set][domain]
        total += (bits_per_byte(one, counts) - bits_per_byte(base, counts)) * bytes_per_token / len(DOMAINS)
    return total


def _bytes(scores: Scores) -> int:
    return sum(num_bytes for _, num_bytes in scores)
