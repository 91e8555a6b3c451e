"""Vocabularies: learn one, and measure it on held-out text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.timing import peak_memory
from benchmarks.supertokens.cases import CACHE, LANGUAGES, VARIANTS
from examples.samples import debian_texts


def trained(key: str) -> dict[str, Any]:
    """Train the vocabulary that a key describes, and measure it on all held-out text."""
    from tokenizers import Tokenizer

    from mergekit_tokenadapt.supertokens.chunks import train_chunks
    from mergekit_tokenadapt.supertokens.options import Limits
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.superwords import train_superwords, train_words
    from mergekit_tokenadapt.supertokens.texts import Corpus
    from mergekit_tokenadapt.supertokens.word_patterns import byte_level_split, word_pattern

    which, size, megabytes, how = key.split(" | ")
    names = list(LANGUAGES) if which == "all" else [which]
    num_bytes = int(megabytes.split()[0]) * 1_000_000
    corpus = Corpus([str(debian_texts.corpus(name)[0]) for name in names], num_bytes)
    limits, before, started = Limits(quiet=True), peak_memory(), (time.perf_counter(), time.process_time())
    if how == "plain":
        definition = train_words(corpus, int(size), [], byte_level_split(word_pattern()), limits)
    elif how == "chunks":
        definition = train_chunks(corpus, int(size), rules=Rules(), limits=limits)
    else:
        options = dict(VARIANTS.get(how.removeprefix("superwords, "), {}))
        share = options.pop("word_share", 0.5)
        definition = train_superwords(corpus, int(size), rules=Rules(**options), limits=limits, word_share=share)
    seconds, cpu, memory = time.perf_counter() - started[0], time.process_time() - started[1], peak_memory() - before
    folder = CACHE / "tokenizers" / key.replace(" | ", "-").replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer.from_str(json.dumps(definition)).save(str(folder / "tokenizer.json"))
    return {
        "seconds": seconds,
        "cpu": cpu,
        "memory": memory,
        "bytes": corpus.num_bytes,
        "tokens": len(definition["model"]["vocab"]),
        "texts": measured(folder),
    }


def existing(key: str) -> dict[str, Any]:
    """Measure an existing tokenizer."""
    path = models.fetched(key.lower())
    return {"tokens": models.tokenizer_files(path).vocabulary.num_ids, "texts": measured(path)}


def measured(folder: Path) -> dict[str, Any]:
    """Return every measure on every held-out text."""
    from mergekit_tokenadapt.supertokens.report import compression

    tokenizer = models.tokenizer_files(folder)
    found = {}
    for name in LANGUAGES:
        documents = debian_texts.corpus(name)[1]
        found[name] = compression(tokenizer, documents) | {"encode": encode_speed(tokenizer, documents)}
    return found


def encode_speed(tokenizer: Any, documents: list[str]) -> float:
    """Return the bytes of text encoded per CPU second, the best of five rounds."""
    encoder, best = tokenizer.fast_tokenizer(), 0.0
    num_bytes = sum(len(d.encode("utf-8")) for d in documents)
    for _ in range(5):
        started = time.process_time()
        encoder.encode_batch_fast(documents, add_special_tokens=False)
        best = max(best, num_bytes / (time.process_time() - started))
    return best
