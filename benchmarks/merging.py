"""Merging fine-tunes with different tokenizers: this package against stock mergekit.

    python -m benchmarks.merging

Five fine-tunes of SmolLM2-135M are made.

- One keeps its own tokenizer, and is trained on Python's manual (English).
- One is trained on Python code, and then moved to Mistral's tokenizer.
- Three are moved first, and then trained: on Python code, on German and on Chinese. On German and Chinese the
  vocabulary rows learn at ten times the rate of the other weights, as is usual after a swap.

`PAIRS` lists which two are merged. Each pair is merged onto the base model's tokenizer and onto Mistral's, with
`tokenizer.adapt` and as stock mergekit does it. A stopped run resumes where it stopped. Writes results/merging.json and
docs/merging.md: bits per byte of held-out text of both kinds.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from benchmarks.common import models, texts
from benchmarks.common.results import Results, in_words, page_only, say, versions, write_page
from examples.samples import python_texts

RESULTS = Results("merging")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers")

WORK = models.KEPT / "merging"
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "weight": 0.5},
    "task_arithmetic": {"merge_method": "task_arithmetic", "weight": 0.7},
}
# `mean` everywhere: its rows are fixed weighted sums of old rows, so a task vector stays what it is: the weighted sum
# of a difference is the difference of the weighted sums. A regression fitted to each model (calibrated) adds noise.
TOKENIZERS: dict[str, dict[str, Any]] = {
    "base, adapt, missing_rows: base_model": {
        "source": "base",
        "adapt": {"method": "mean", "missing_rows": "base_model"},
    },
    "base, adapt": {"source": "base", "adapt": {"method": "mean"}},
    "base, stock": {"source": "base"},
    "union, stock": {"source": "union"},
    "Mistral's, adapt": {"source": str(WORK / "moved"), "adapt": {"method": "mean"}},
    "Mistral's, stock": {"source": str(WORK / "moved")},
}
BASE, MOVED = "base model", "moved to Mistral's tokenizer"
ON_MANUAL, ON_GERMAN = ("trained on the manual", "manual"), ("moved, then trained on German", "German")
PAIRS = {
    "moved, then trained": (ON_MANUAL, ("moved, then trained on code", "code")),
    "trained, then moved": (ON_MANUAL, ("trained on code, then moved", "code")),
    "moved, then trained on German": (ON_MANUAL, ON_GERMAN),
    "both moved, then trained": (ON_GERMAN, ("moved, then trained on Chinese", "Chinese")),
}
"""The two fine-tunes, and the text that each was trained on."""
FASTER_ROWS = 10
"""Learning rate of vocabulary rows in units of that of the other weights, for fine-tunes that say so."""


@click.command()
@click.option("--pair", "pairs", multiple=True, type=click.Choice(list(PAIRS)), help="Only these. Repeatable.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only these. Repeatable.")
@click.option("--steps", default=60, show_default=True, help="Of each fine-tune.")
@click.option("--length", default=128, show_default=True, help="Tokens of an example.")
@click.option("--batch-size", default=4, show_default=True)
@click.option("--test-bytes", default=8000, show_default=True, help="Held-out text of each kind.")
@page_only
def main(
    pairs: tuple[str, ...],
    methods: tuple[str, ...],
    steps: int,
    length: int,
    batch_size: int,
    test_bytes: int,
    page_only: bool,
) -> None:
    """Fine-tune, merge, measure. Fine-tunes are kept in demo/merging and not made again."""
    if not page_only:
        measure_all(pairs or tuple(PAIRS), methods or tuple(METHODS), test_bytes, steps, length, batch_size)
    write_page("merging.md", page(RESULTS.for_page()))


def measure_all(
    pairs: tuple[str, ...], methods: tuple[str, ...], test_bytes: int, steps: int, length: int, batch_size: int
) -> None:
    """Measure what is missing; fine-tunes and texts must be those of the results."""
    how = {"steps": steps, "length": length, "batch_size": batch_size}
    WORK.mkdir(parents=True, exist_ok=True)
    sources = {
        "manual": python_texts.split(python_texts.python_manual()),
        "code": python_texts.split(python_texts.python_sources()),
        "German": python_texts.split(paragraphs("de")),
        "Chinese": python_texts.split(paragraphs("zh")),
    }
    held_out = {name: excerpt(documents, test_bytes) for name, (_, documents) in sources.items()}
    models_made = Models({name: training for name, (training, _) in sources.items()}, how)
    sizes, known = {name: len(text.encode()) for name, text in held_out.items()}, RESULTS.read()
    RESULTS.check_setting(known.get("how") == how and known["bytes"] == sizes)
    with RESULTS.change() as results:
        results |= {"how": how, "bytes": sizes}
    for pair in pairs:
        measure_pair(pair, methods, models_made, held_out)


def measure_pair(pair: str, methods: tuple[str, ...], made: Models, held_out: dict[str, str]) -> None:
    """Measure what is missing of a pair: its models, and every merge of them."""
    (first, first_kind), (second, second_kind) = PAIRS[pair]
    wanted = {name: held_out[name] for name in (first_kind, second_kind)}
    for name in (BASE, MOVED, first, second):
        known = RESULTS.read().get("models", {}).get(name, {})
        measured = measure(made[name], {text: wanted[text] for text in wanted if text not in known})
        with RESULTS.change() as results:
            results.setdefault("models", {}).setdefault(name, {}).update(measured)
            results |= about()
    cells = [
        (
            f"{pair} | {method} | {tokenizer}",
            functools.partial(merge, method, tokenizer, made[BASE], made[first], made[second], wanted),
        )
        for method in methods
        for tokenizer in TOKENIZERS
    ]
    RESULTS.measure_missing(cells, under="merges", about=about)


def about() -> dict[str, Any]:
    """What the file says of the newest run."""
    return {"packages": versions(*PACKAGES)}


def paragraphs(language: str) -> list[str]:
    """Return the Debian Reference in a language, as documents of ten paragraphs."""
    found = (texts.mixed() / f"{language}.txt").read_text(encoding="utf-8").split("\n\n")
    return ["\n\n".join(found[n : n + 10]) for n in range(0, len(found), 10)]


class Models:
    """The models that are merged or compared, by name. A model is made when it is first asked for, and kept."""

    def __init__(self, training: dict[str, list[str]], how: dict[str, int]) -> None:
        self._training, self._how = training, how
        self._suffix = f"{how['steps']}x{how['batch_size']}x{how['length']}"

    def __getitem__(self, name: str) -> Path:
        text = self._training
        if name == BASE:
            return models.fetched("smollm2")
        if name == MOVED:
            return self._move(BASE, "moved")
        if name == "trained on the manual":
            return self._tune(BASE, text["manual"], "manual")
        if name == "trained on code":
            return self._tune(BASE, text["code"], "code")
        if name == "moved, then trained on code":
            return self._tune(MOVED, text["code"], "moved-code")
        if name == "trained on code, then moved":
            return self._move("trained on code", f"code-moved-{self._suffix}")
        if name == "moved, then trained on German":
            return self._tune(MOVED, text["German"], "moved-german", faster_rows=FASTER_ROWS)
        if name == "moved, then trained on Chinese":
            return self._tune(MOVED, text["Chinese"], "moved-chinese", faster_rows=FASTER_ROWS)
        raise KeyError(name)

    def _move(self, model: str, folder: str) -> Path:
        mistral = models.fetched("mistral")
        return move(self[model], mistral, WORK / folder)

    def _tune(self, model: str, documents: list[str], folder: str, faster_rows: float = 1) -> Path:
        out = WORK / f"{folder}-{self._suffix}"
        return fine_tune(self[model], documents, out, **self._how, faster_rows=faster_rows)


def move(base: Path, tokenizer: Path, out: Path) -> Path:
    """Give the base model another tokenizer, unless OUT exists."""
    return out if out.is_dir() else models.transplanted(base, tokenizer, out, {"method": "mean"})


def fine_tune(
    model_folder: Path,
    documents: list[str],
    out: Path,
    *,
    steps: int,
    length: int,
    batch_size: int,
    faster_rows: float = 1,
) -> Path:
    """Train all weights with AdamW; the vocabulary matrix learns at `faster_rows` times the rate of the others."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if out.is_dir():
        return out
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder))
    blocks = torch.tensor(python_texts.blocks(documents, tokenizer, length))
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    rows = [model.get_input_embeddings().weight]
    body = [p for p in model.parameters() if p is not rows[0]]
    rates = [2e-4 * faster_rows, 2e-4]
    optimizer = torch.optim.AdamW([{"params": rows}, {"params": body}], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    model.train()
    started = time.perf_counter()
    for step in range(steps):
        batch = blocks[order[torch.arange(step * batch_size, (step + 1) * batch_size) % len(order)]]
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            say(f"{out.name}: step {step + 1}, loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s")
    stage = out.with_name(f".{out.name}")
    model.to(torch.bfloat16).save_pretrained(stage)
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    for file in load_tokenizer(str(model_folder)).files():
        shutil.copy(file, stage)
    stage.rename(out)
    return out


def merge(method: str, tokenizer: str, base: Path, first: Path, second: Path, texts: dict[str, str]) -> Any:
    """Run mergekit-yaml as a user would. Returns bits per byte of each text, or its last error line where it fails."""
    settings = dict(METHODS[method])
    parameters = {k: settings.pop(k) for k in ("weight", "density") if k in settings}
    recipe = {
        **settings,
        "base_model": str(base),
        "models": [{"model": str(m), "parameters": parameters} for m in (first, second)],
        "dtype": "bfloat16",
        "tokenizer": TOKENIZERS[tokenizer],
    }
    file, out = WORK / "recipe.yml", WORK / "out"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    shutil.rmtree(out, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "mergekit-yaml"), str(file), str(out), "--no-write-model-card"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    try:
        return measure(out, texts)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def measure(folder: Path, texts: dict[str, str]) -> dict[str, float]:
    """Bits per byte of each text."""
    from transformers import AutoTokenizer

    from mergekit_tokenadapt.evaluation import bits_per_byte

    if not texts:
        return {}
    model, tokenizer = models.in_float32(folder), AutoTokenizer.from_pretrained(str(folder))
    found = {name: round(bits_per_byte(model, tokenizer, text), 4) for name, text in texts.items()}
    say(f"{folder.name}: {found}")
    return found


def excerpt(documents: list[str], num_bytes: int) -> str:
    """The first bytes of all held-out documents, each with the same share."""
    share = num_bytes // len(documents)
    return "\n\n".join(d.encode()[:share].decode("utf-8", "ignore") for d in documents)


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    how, sizes = results["how"], results["bytes"]
    lines = [
        "# Merging across tokenizers: measured",
        "",
        "Figures are bits per byte of held-out text; lower is better. `python -m benchmarks.merging` makes this page;",
        "all figures are in [results/merging.json](../benchmarks/results/merging.json).",
        "The base model is SmolLM2-135M-Instruct.",
        "*Moved* means that the model got Mistral's tokenizer (32,000 tokens) by the method `mean`.",
        f"Each fine-tune trained all weights for {how['steps']} steps of {how['batch_size']} x {how['length']} tokens.",
        f"On German and Chinese the vocabulary rows had {FASTER_ROWS} times the learning rate of the other weights.",
        "Bytes of held-out text:",
        ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + ". The manual is Python's.",
        "[two_models.md](two_models.md#merging-across-tokenizers) explains the results.",
        f"Versions: {in_words(results['packages'])}; CPU.",
        "",
        f"| model | {' | '.join(sizes)} |",
        "|---" * (1 + len(sizes)) + "|",
        *(_row(name, {kind: bits.get(kind) for kind in sizes}) for name, bits in results["models"].items()),
    ]
    lines += [
        "",
        "In the next tables `base`, `union` and `Mistral's` say which tokenizer the merged model has",
        "(`tokenizer.source` in the recipe). `adapt` is this package's `tokenizer.adapt` block; `stock` is",
        "mergekit without it.",
        "`missing_rows: base_model` gives a model the base model's row for each token that the model does not have.",
    ]
    for pair, ((first, first_kind), (second, second_kind)) in PAIRS.items():
        lines += ["", f"Merged: the model *{first}* and the model *{second}*.", ""]
        lines += [f"| method | onto which tokenizer, and how | {first_kind} | {second_kind} | mean |"]
        lines += ["|---|---|---|---|---|"]
        for key, bits in results["merges"].items():
            which, method, tokenizer = key.split(" | ")
            if which == pair:
                mean = {} if "failed" in bits else {"mean": sum(bits.values()) / len(bits)}
                lines.append(_row(f"{method} | {tokenizer}", bits | mean))
    return "\n".join(lines) + "\n"


def _row(name: str, bits: dict[str, Any]) -> str:
    if "failed" in bits:
        return f"| {name} | mergekit fails: {bits['failed'][:100]} | | |"
    cells = ("" if value is None else f"{value:.3f}" for value in bits.values())
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
