"""The model side: move SmolLM2 to a new vocabulary, score it, and let it write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.supertokens.cases import CACHE, GENERATED_TOKENS, METHODS, MODEL_TEXT
from benchmarks.supertokens.generation import written
from examples.samples import debian_texts


def moved(key: str) -> dict[str, Any]:
    """Move SmolLM2 to a new vocabulary; returns bits per byte, and the text that it generates per second."""
    base = models.fetched("smollm2")
    if key == "model | base":
        return {"texts": scored(base), **generated(base)}
    _, vocabulary, method = key.split(" | ")
    tokenizer = _vocabulary_for_the_model(vocabulary, base)
    adapt = dict(METHODS[method])
    if "calibration_bytes" in adapt:  # of the text that the vocabulary was learned from, evenly spaced
        adapt["calibration_text"] = str(debian_texts.corpus(MODEL_TEXT[0])[0])
    out = CACHE / "models" / key.replace(" | ", "-").replace(" ", "_")
    models.transplanted(base, tokenizer, out, adapt, force=True)
    manifest = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]
    result = {"texts": scored(out), **generated(out), "rows_by_reason": manifest["rows_by_reason"]}
    shutil.rmtree(out)
    return result


def _vocabulary_for_the_model(vocabulary: str, base: Path) -> Path:
    from mergekit_tokenadapt.supertokens.making import extend_folder, train_folder
    from mergekit_tokenadapt.supertokens.options import Limits, TrainOptions
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.texts import Corpus

    folder = CACHE / "tokenizers" / f"SmolLM2-{vocabulary.replace(' ', '_')}"
    if not folder.is_dir():
        name, megabytes = MODEL_TEXT
        corpus = Corpus([str(debian_texts.corpus(name)[0])], megabytes * 1_000_000)
        number, limits = int(vocabulary.split()[-1]), Limits(quiet=True)
        if vocabulary.startswith("extended"):
            extend_folder(folder, models.tokenizer_files(base), corpus, number, Rules(), limits, drop=False)
        else:
            train_folder(folder, corpus, TrainOptions(vocab_size=number, limits=limits), models.tokenizer_files(base))
    return folder


def _texts_to_score() -> dict[str, list[str]]:
    """Texts that no vocabulary was learned from: held-out documents, and the prose built into the evaluation."""
    from mergekit_tokenadapt.texts.builtin import builtin_text

    held_out = [d[:2000] for d in debian_texts.corpus("english")[1][:3]]
    return {"held-out English": held_out, "built-in prose": list(builtin_text("prose").limited(12_000).documents)}


def scored(folder: Path) -> dict[str, Any]:
    """Return bits per byte and tokens per byte of each text."""
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.folder import ModelFolder
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.models.losses import Scorer

    model_folder = ModelFolder(folder.name, folder, models.tokenizer_files(folder))
    scorer = Scorer(load_model(model_folder))
    found = {}
    for name, documents in _texts_to_score().items():
        done = score_documents(scorer, model_folder.tokenizer, documents)
        num_bytes = sum(d.num_bytes for d in done)
        found[name] = {
            "bits_per_byte": sum(d.bits for d in done) / num_bytes,
            "tokens_per_byte": sum(len(d.ids) for d in done) / num_bytes,
        }
    return found


def generated(folder: Path) -> dict[str, Any]:
    """Return bytes and tokens per second of greedy generation, the median of three prompts, and the first text."""
    prompts = [" ".join(d.split()[:60]) for d in _texts_to_score()["built-in prose"][:3]]
    found = written(folder, prompts, GENERATED_TOKENS)
    return {
        "bytes_per_second": sorted(len(one.text.encode("utf-8")) / one.seconds for one in found)[1],
        "tokens_per_second": sorted(GENERATED_TOKENS / one.seconds for one in found)[1],
        "text": found[0].text,
    }
