"""Before and after healing: SmolLM2 with 8,000 supertokens reads held-out text, writes, and does public tasks.

The vocabulary is learned from English and code. Models are healed on the same text, for so many steps, and otherwise
with the defaults of `heal`, except that the base model reads all passages. They stay in the folder of models; delete
one to make it again.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import click
from filelock import FileLock

from benchmarks.common import models
from benchmarks.common.timing import one_thread
from benchmarks.healing.cells import NO_LIMIT, RECORDED
from benchmarks.supertokens.cases import CACHE, GENERATED_TOKENS
from benchmarks.supertokens.generation import written
from benchmarks.tasks.cases import BASE
from benchmarks.tasks.scoring import scored
from examples.samples import debian_texts

ADDED = 8000
"""Tokens that are asked for."""
SOURCES = {"english": "English", "code": "code"}
"""Corpora that the vocabulary is learned from and that the models are healed on, and their names on the page."""
LEARNED = CACHE / "supertokens-text"
LEARNED_BYTES = 10_000_000
"""Of each corpus, about: whole documents."""
LONGEST_DOCUMENT = 200_000
"""Bytes. Longer documents are left out: a generated header of Linux would be more than half of the code."""
STEPS = 40
STARTS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "calibrated, untied": {"method": "calibrated", "auxiliary": "ngram", "untie": True},
}
"""Rows without training: name to `adapt` block."""
HEALED = {f"{start}, healed {STEPS} steps": start for start in STARTS}
"""Name of a healed model to the one that it was made from."""
MODELS = (BASE, *STARTS, *HEALED)
HELD_OUT_DOCUMENTS, PASSAGE = 40, 1000
"""Held-out documents of each corpus that are scored, and characters of each, from its middle."""
BUILTIN_BYTES = 12_000
PROMPTS, PROMPT = 4, 300
"""Prompts from each text to write on, and the largest number of characters of each."""
PROMPTED = ("held-out English", "held-out code", "built-in prose")
"""Texts that prompts are taken from."""
TASKS = ("LAMBADA", "HumanEval", "ARC-Easy")
DOCUMENTS = 40
"""Largest number of documents of a task."""
MEASURED = "benchmark.json"
"""The file in a kept model that says how it was made."""


def cell_keys() -> list[str]:
    """The keys of all cells. The models that need no training come first."""
    of_models = [f"{model} | {measure}" for model in MODELS for measure in ("making", "texts", "writing")]
    return [f"healed | {key}" for key in (*of_models, *(f"{model} | {task}" for task in TASKS for model in MODELS))]


def measured(key: str) -> dict[str, Any]:
    """Measure one cell: how a model was made, what it makes of texts, what it writes, or a task."""
    one_thread()
    _, model, measure = key.split(" | ")
    folder = made(model)
    if measure == "making":
        return {} if model == BASE else dict(json.loads((folder / MEASURED).read_text()))
    if measure == "texts":
        return read(folder)
    if measure == "writing":
        return {"prompts": wrote(folder)}
    return scored(folder, measure, DOCUMENTS)


def about() -> dict[str, Any]:
    """How many tokens were added, and the bytes of text that they were learned from."""
    manifest = json.loads((vocabulary() / "supertokens.json").read_text())
    sizes = {
        title: sum(len(json.loads(line)["text"].encode("utf-8")) for line in learned_from()[name].open())
        for name, title in SOURCES.items()
    }
    return {"added": manifest["added"], "learned from": sizes}


# --- text and vocabulary -------------------------------------------------------------------------


def learned_from() -> dict[str, Path]:
    """The texts to learn and to heal with, as jsonl files: the first documents of each corpus."""
    found = {}
    LEARNED.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        file = LEARNED / f"{name}.jsonl"
        if not file.is_file():
            stage, size = file.with_suffix(".partial"), 0
            with debian_texts.corpus(name)[0].open(encoding="utf-8") as all_of_it, stage.open("w") as kept:
                for line in all_of_it:
                    if (num_bytes := len(json.loads(line)["text"].encode("utf-8"))) <= LONGEST_DOCUMENT:
                        kept.write(line)
                        size += num_bytes
                    if size >= LEARNED_BYTES:
                        break
            stage.rename(file)
        found[name] = file
    return found


def vocabulary() -> Path:
    """SmolLM2's tokenizer with the new tokens; it is learned on the first call."""
    from mergekit_tokenadapt.supertokens.making import extend_folder
    from mergekit_tokenadapt.supertokens.options import Limits
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.texts import Corpus

    folder = CACHE / "tokenizers" / f"SmolLM2-{'-'.join(SOURCES)}-{ADDED}"
    if not folder.is_dir():
        base = models.tokenizer_files(models.fetched("smollm2"))
        corpus = Corpus([str(file) for file in learned_from().values()])
        extend_folder(folder, base, corpus, ADDED, Rules(), Limits(quiet=True), drop=False)
    return folder


@functools.cache
def texts() -> dict[str, list[str]]:
    """Texts that nothing was learned from: held-out documents of the same sources, and texts of other sources."""
    from mergekit_tokenadapt.texts.builtin import builtin_text

    held_out = {
        f"held-out {title}": [middle(d) for d in debian_texts.corpus(name)[1] if len(d) >= PASSAGE][:HELD_OUT_DOCUMENTS]
        for name, title in SOURCES.items()
    }
    builtin = {f"built-in {n}": list(builtin_text(n).limited(BUILTIN_BYTES).documents) for n in ("prose", "code")}
    return held_out | builtin


def middle(document: str) -> str:
    """The characters in the middle of a document. Its beginning is often a licence or a table of contents."""
    start = (len(document) - PASSAGE) // 2
    return document[start : start + PASSAGE]


# --- models --------------------------------------------------------------------------------------


def made(model: str) -> Path:
    """The folder of a model. It is made on the first call; another run that wants it waits meanwhile."""
    base = models.fetched("smollm2")
    if model == BASE:
        return base
    folder = models.KEPT / f"supertokens-{model}".replace(",", "").replace(" ", "-")
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            start = made(HEALED[model]) if model in HEALED else None
            tokenizer = vocabulary()
            with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
                out = Path(temporary, "out")
                record = _healed(start, base, out) if start else _swapped(base, tokenizer, out, STARTS[model])
                (out / MEASURED).write_text(json.dumps(record))
                out.rename(folder)
    return folder


def _swapped(base: Path, tokenizer: Path, out: Path, adapt: dict[str, Any]) -> dict[str, Any]:
    models.transplanted(base, tokenizer, out, adapt)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    return {"rows_by_reason": manifest["inputs"][0]["rows_by_reason"]}


def _healed(start: Path, base: Path, out: Path) -> dict[str, Any]:
    from mergekit_tokenadapt.healing.options import HealOptions
    from mergekit_tokenadapt.healing.run import heal
    from mergekit_tokenadapt.texts import read_text

    done = heal(
        str(start),
        str(out),
        [read_text(f"{name}={file}") for name, file in learned_from().items()],
        HealOptions(minutes=NO_LIMIT, steps=STEPS, plain_share=0.0),
        base=str(base),
        quiet=True,
        say=lambda line: click.echo(line, err=True),
    )
    return {name: done.record[name] for name in RECORDED}


# --- measurements --------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    """Bits, bytes, tokens and new tokens of each document of `texts`."""
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.losses import Scorer

    scorer, tokenizer, first_new = Scorer(models.in_float32(folder)), models.tokenizer_files(folder), _first_new()
    found: dict[str, Any] = {}
    for name, documents in texts().items():
        done = score_documents(scorer, tokenizer, documents)
        found[name] = {
            "bits": [round(d.bits, 3) for d in done],
            "bytes": [d.num_bytes for d in done],
            "tokens": [len(d.ids) for d in done],
            "new": [int((d.ids >= first_new).sum()) for d in done],
        }
    return found


def wrote(folder: Path) -> list[dict[str, Any]]:
    """What the model writes after each prompt: bytes, tokens, new tokens among them, CPU seconds, and the text."""
    first_new = _first_new()
    return [
        {
            "bytes": len(one.text.encode("utf-8")),
            "tokens": len(one.ids),
            "new": sum(token >= first_new for token in one.ids),
            "seconds": round(one.seconds, 3),
            "text": one.text,
        }
        for one in written(folder, prompts(), GENERATED_TOKENS)
    ]


def prompts() -> list[str]:
    """The first words of the first documents of each text that prompts are taken from."""
    return [document[:PROMPT].rsplit(" ", 1)[0] for name in PROMPTED for document in texts()[name][:PROMPTS]]


def _first_new() -> int:
    """The new tokens have the ids after the base's highest one."""
    return int(models.tokenizer_files(models.fetched("smollm2")).vocabulary.num_ids)
