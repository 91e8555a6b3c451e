"""What is measured: pairs of models and tokenizers, methods, and the domains of the texts."""

from __future__ import annotations

from typing import Any

DOMAINS = {"prose": "English", "code": "code", "de": "German", "zh": "Chinese", "arithmetic": "arithmetic"}
"""Built-in text to its name in the tables."""
TEXT_SETS = {
    "domains": "Text from other sources than the calibration text",
    "alike": "Text from the same sources as the calibration text, other parts",
}
"""Key of the results to its heading: the built-in texts, and `texts.alike`."""
PAIRS = {
    "smollm2-gemma": ("smollm2", "gemma"),
    "smollm2-deepseek": ("smollm2", "deepseek"),
    "smollm2-mistral": ("smollm2", "mistral"),
    "gemma-deepseek": ("gemma", "deepseek"),
    "gemma-smollm2": ("gemma", "smollm2"),
    "gemma-mistral": ("gemma", "mistral"),
}
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "hybrid, ngram": {"method": "hybrid", "auxiliary": "ngram"},
    "calibrated, ngram": {"method": "calibrated", "auxiliary": "ngram"},
    "calibrated, ngram, untied": {"method": "calibrated", "auxiliary": "ngram", "untie": True},
    "hybrid, MiniLM": {"method": "hybrid", "auxiliary": "minilm"},
    "calibrated, MiniLM": {"method": "calibrated", "auxiliary": "minilm"},
    "calibrated, ngram, 200 KB of text": {
        "method": "calibrated",
        "auxiliary": "ngram",
        "calibration_text": "mixed",
        "calibration_bytes": 200_000,
    },
    "calibrated, ngram, 200 KB of text, untied": {
        "method": "calibrated",
        "auxiliary": "ngram",
        "calibration_text": "mixed",
        "calibration_bytes": 200_000,
        "untie": True,
    },
    "calibrated, ngram, 1 MB of text": {
        "method": "calibrated",
        "auxiliary": "ngram",
        "calibration_text": "mixed",
        "calibration_bytes": 1_000_000,
    },
    "calibrated, ngram, 1 MB of text, untied": {
        "method": "calibrated",
        "auxiliary": "ngram",
        "calibration_text": "mixed",
        "calibration_bytes": 1_000_000,
        "untie": True,
    },
    "calibrated, ngram, then gradients on 200 KB of text, untied": {
        "method": "calibrated",
        "auxiliary": "ngram",
        "untie": True,
        "gradients": 200_000,
    },
    "donor_linear": {"method": "donor_linear"},
    "omp, donor, where the texts need it": {"method": "calibrated", "auxiliary": "ngram", "donor": True, "omp": True},
    "vipi": {"method": "vipi"},
    "eeve": {"method": "eeve"},
    "eeve, untied": {"method": "eeve", "untie": True},
    "adaptivocab": {"method": "adaptivocab"},
    "adaptivocab, untied": {"method": "adaptivocab", "untie": True},
    "transplant_vocab": {"method": "transplant_vocab"},
    "transplant_vocab, untied": {"method": "transplant_vocab", "untie": True},
    "beyond_initialization_loss": {"method": "beyond_initialization_loss"},
    "beyond_initialization_loss, untied": {"method": "beyond_initialization_loss", "untie": True},
    "parallel, one text": {"method": "parallel", "text": "mixed"},
    "hidden": {"method": "hidden"},
    "hidden, with pieces": {"method": "hidden", "keep_pieces": True},
    "focus": {"method": "focus", "text": "mixed"},
    "wechsel": {"method": "wechsel", "base_vectors": "mixed words", "target_vectors": "mixed words"},
    "wechsel, pieces": {
        "method": "wechsel",
        "base_vectors": "mixed words",
        "target_vectors": "mixed words",
        "rare": "mean",
    },
    "hybrid, word vectors": {"method": "hybrid", "auxiliary": "mixed words"},
    "hewitt": {"method": "hewitt"},
    "random": {"method": "random"},
    "zero": {"method": "zero"},
    "tokensurgeon, subword": {"tokensurgeon": ["--approximation-method", "subword"]},
    "tokensurgeon, common_interpolation": {"tokensurgeon": ["--approximation-method", "common_interpolation"]},
    "calibrated, ngram, donor": {"method": "calibrated", "auxiliary": "ngram", "donor": True},
}
HAVE_WEIGHTS = ("smollm2", "gemma")
"""Targets that can be donors."""
NEEDS_DONOR = ("donor", "tokensurgeon")
"""In the names of methods that need one; mergekit-tokensurgeon reads a donor's weights whatever the method."""
BASE = "base model"
"""Stands for a method in the keys and tables: the original model in its own tokens."""
MAX_BYTES = 3000
"""Text of each domain that the page is about."""


def key_of(pair: str, method: str, max_bytes: int) -> str:
    """The key of a cell of the results."""
    return f"{pair} | {method} | {max_bytes}"
