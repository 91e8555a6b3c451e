"""What is measured: texts, vocabularies, options and methods."""

from __future__ import annotations

from typing import Any

from examples.samples import debian_texts

CACHE = debian_texts.CACHE
"""Where vocabularies and models are kept while they are measured."""
LANGUAGES = {"english": "English", "code": "code", "german": "German", "japanese": "Japanese"}
PARTS = ("curve", "sizes", "model", "options", "healed")
CURVE_MB = (10, 30, 100, 0)
SIZES = (64_000, 32_000)
MIXTURE_MB = 60
VARIANT_MB = 30
"""Text for the options and for `chunks`, which keeps nearly every distinct chunk of the text in memory."""
MODEL_TEXT = ("english", 10)
"""Corpus and MB that the model's vocabularies are learned from."""
GENERATED_TOKENS = 64
VARIANTS: dict[str, dict[str, Any]] = {
    "word share 0.25": {"word_share": 0.25},
    "word share 0.75": {"word_share": 0.75},
    "no punctuation": {"punctuation": False},
    "8 words": {"max_words": 8},
    "2 words": {"max_words": 2},
}
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "local": {"method": "local", "auxiliary": "ngram"},
    "global": {"method": "global", "auxiliary": "ngram"},
    "hybrid": {"method": "hybrid", "auxiliary": "ngram"},
    "calibrated": {"method": "calibrated", "auxiliary": "ngram"},
    "hybrid, 200 KB of text": {"method": "hybrid", "auxiliary": "ngram", "calibration_bytes": 200_000},
}
VOCABULARIES = ("extended by 8000", "trained 49152")
MODELS = ("base", *[f"{vocabulary} | {method}" for vocabulary in VOCABULARIES for method in METHODS])
