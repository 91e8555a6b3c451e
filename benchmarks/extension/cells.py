"""What is measured: the extensions, the methods, the texts; and the measurement of one cell."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import models, texts
from benchmarks.quality.cases import MAX_BYTES
from benchmarks.quality.swaps import score

BASE = "smollm2"
SOURCES = ("deepseek", "mistral")
"""Tokenizers whose tokens are appended."""
LANGUAGE = "de"
"""The language to extend for: the name of a text of `texts.mixed` and of a built-in text."""
SAME_SOURCE = "same source"
"""The name of the text that has the source of the one that chooses the tokens: other chapters of the same book."""
TEXT_SET = "domains"
"""The texts of benchmarks.quality that models are scored on: the built-in ones, of other sources."""
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "hybrid, ngram": {"method": "hybrid", "auxiliary": "ngram"},
    "calibrated, ngram": {"method": "calibrated", "auxiliary": "ngram"},
}
"""Methods for the new rows. Their names are those of benchmarks.quality."""


@dataclass(frozen=True)
class Extension:
    """The base's tokenizer with tokens of a source."""

    source: str
    tokens: int | Literal["all"]
    """The option `tokens` of the recipe; all: every token that the text uses."""

    @property
    def key(self) -> str:
        """The key of its results."""
        return f"{self.source} | {self.tokens}"

    @property
    def options(self) -> dict[str, Any]:
        """The block `extend` of the recipe."""
        return {"tokens": self.tokens, "text": str(chooser())}


EXTENSIONS = [Extension(source, tokens) for source in SOURCES for tokens in (500, 1000, "all")]
MODELS = [
    (Extension("deepseek", "all"), "mean"),
    (Extension("deepseek", "all"), "calibrated, ngram"),
    (Extension("mistral", "all"), "mean"),
    (Extension("deepseek", 500), "mean"),
    (Extension("deepseek", "all"), "hybrid, ngram"),
    (Extension("mistral", "all"), "calibrated, ngram"),
    (Extension("deepseek", 500), "calibrated, ngram"),
]
"""Extension and method of each model, the most important ones first."""


def chooser() -> Path:
    """The text that chooses the tokens."""
    return texts.mixed() / f"{LANGUAGE}.txt"


@functools.cache
def counted_texts() -> dict[str, tuple[str, ...]]:
    """The documents on which tokens are counted, by text. None of them is in the text that chooses the tokens."""
    from mergekit_tokenadapt.texts.builtin import LANGUAGES, builtin_text

    # The declaration is the same text in each language; "prose" is other text, and so is not comparable with it.
    builtin = {name: builtin_text(name).documents for name in (*LANGUAGES, "prose", "code", "arithmetic")}
    return {SAME_SOURCE: (texts.unread(LANGUAGE),), **builtin}


@functools.cache
def tokenizer_named(name: str) -> Any:
    """The tokenizer of a model or of a source."""
    return models.tokenizer_files(models.fetched(name))


def count_base() -> dict[str, Any]:
    """What the base's tokenizer makes of the texts, and how many tokens of it the text has that chooses."""
    tokenizer = tokenizer_named(BASE)
    chosen_by = tokenizer.fast_tokenizer().encode(chooser().read_text(encoding="utf-8"), add_special_tokens=False)
    return {"chosen_by": len(chosen_by.ids), **_counts(tokenizer.definition, first_new=None)}


def count_source(source: str) -> dict[str, Any]:
    """What a source's own tokenizer makes of the texts."""
    return _counts(tokenizer_named(source).definition, first_new=None)


def count_extended(extension: Extension) -> dict[str, Any]:
    """What the extended tokenizer makes of the texts, and how many tokens were appended and left out."""
    from mergekit_tokenadapt.texts import read_text
    from mergekit_tokenadapt.vocabulary_extension.extend import extended

    base, source = tokenizer_named(BASE), tokenizer_named(extension.source)
    most = None if extension.tokens == "all" else extension.tokens
    made = extended(base, source, most, read_text(str(chooser())))
    return {
        "appended": len(made.appended),
        "needed_by_merges": len(made.helpers),
        "left_out": made.left_out.counts(),
        **_counts(made.definition, first_new=base.vocabulary.num_ids),
    }


def _counts(definition: Any, first_new: int | None) -> dict[str, Any]:
    """Bytes and tokens of each text, and how many of the tokens are new."""
    from mergekit_tokenadapt.tokenizer import files

    library = files.tokenizer_of(definition)
    found: dict[str, Any] = {"bytes": {}, "tokens": {}, "new": {}}
    for name, documents in counted_texts().items():
        encodings = library.encode_batch_fast(list(documents), add_special_tokens=False)
        ids = [i for encoding in encodings for i in encoding.ids]
        found["bytes"][name] = sum(len(document.encode("utf-8")) for document in documents)
        found["tokens"][name] = len(ids)
        found["new"][name] = 0 if first_new is None else sum(i >= first_new for i in ids)
    return found


def scored(extension: Extension, method: str) -> dict[str, Any]:
    """Extend the model's vocabulary, and score the model: bits and bytes of every document, by domain."""
    base, source = (models.fetched(name) for name in (BASE, extension.source))
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
        started = time.perf_counter()
        adapt = {**METHODS[method], "extend": extension.options}
        out = models.transplanted(base, source, Path(temporary, "out"), adapt)
        seconds = time.perf_counter() - started
        manifest = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]
        scores = score(out, MAX_BYTES, [TEXT_SET])[TEXT_SET]
    return {"scores": scores, "seconds": round(seconds, 1), "rows_by_reason": manifest["rows_by_reason"]}
