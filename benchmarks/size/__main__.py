"""How much time and memory does a transplant take, by size of the model and of the vocabulary?

    python -m benchmarks.size                    # everything; resumes where it stopped
    python -m benchmarks.size --part models      # or: vocabularies
    python -m benchmarks.size --page-only        # the page anew, from the results

Writes results/size.json (all figures), docs/size.md (tables and explanations) and the curves beside it. Every
transplant is the real command in a process of its own, on one thread, whose memory is sampled every 20 ms.
Needs Linux, 30 GB of disk for the largest model, and about half an hour.

- models: synthetic Llamas of 0.5 to 12 GB get DeepSeek's tokenizer.
- vocabularies: SmolLM2-135M gets synthetic tokenizers of 32,000 to a million tokens.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.common import models, timing
from benchmarks.common.results import Cell, Results, page_only, setting, write_page
from benchmarks.size import page, synthetic

RESULTS = Results("size")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "safetensors", "torch", "tokenizers")
FIXED = page.FIXED
PARTS = ("models", "vocabularies")
ENVIRONMENT = timing.ONE_THREAD | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

MODELS = {"0.5 GB": 1024, "2 GB": 2048, "6 GB": 3072, "12 GB": 4096}
"""Size of the weights, and width."""
MODEL_RUNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("0.5 GB", "as it is", ()),
    ("2 GB", "as it is", ()),
    ("6 GB", "as it is", ()),
    ("6 GB", "float16", ("--dtype", "float16")),
    ("6 GB", "float16, shards of 5 GB", ("--dtype", "float16", "--out-shard-size", "5B")),
    ("12 GB", "as it is", ()),
    ("12 GB", "shards of 5 GB", ("--out-shard-size", "5B")),
)
VOCABULARIES = (
    *(("mean", size) for size in (32_000, 64_000, 128_000, 256_000, 512_000, 1_000_000)),
    *(("hybrid", size) for size in (32_000, 64_000, 128_000)),
    *(("calibrated", size) for size in (32_000, 64_000)),
    *(("hybrid", 256_000), ("calibrated", 128_000), ("hybrid", 512_000)),
)
"""Methods and tokens of the targets, the quickest first. More would take longer than half an hour."""


@click.command()
@click.option("--part", "chosen", multiple=True, type=click.Choice(PARTS), help="Only these. Repeatable.")
@page_only
@click.option("--scratch", type=click.Path(file_okay=False), help="Where models are written.  [default: demo]")
def main(chosen: tuple[str, ...], page_only: bool, scratch: str | None) -> None:
    """Measure, and write results/size.json, docs/size.md and the curves."""
    if not page_only:
        with tempfile.TemporaryDirectory(prefix="size-", dir=scratch or models.KEPT) as folder:
            RESULTS.measure_missing(_cells(chosen or PARTS, Path(folder)), about=_about)
    results = RESULTS.for_page()
    for name, content in page.pages(results, [k for k in _keys() if k not in results["runs"]]).items():
        write_page(name, content)


def _about() -> dict[str, Any]:
    """What the file says of the newest run."""
    return {"setting": setting(*PACKAGES, cores=True)}


def _keys() -> list[str]:
    """Keys of all runs."""
    models = [f"model | {size} | {how}" for size, how, _ in MODEL_RUNS]
    return [*models, FIXED, *(f"vocabulary | {size} | {method}" for method, size in VOCABULARIES)]


def _cells(chosen: tuple[str, ...], scratch: Path) -> Iterator[Cell]:
    """Key and measurement of every run. A key says all that the run depends on."""
    if "models" in chosen:
        yield from _model_runs(scratch)
    if "vocabularies" in chosen:
        yield from _vocabulary_runs(scratch)


# --- models --------------------------------------------------------------------------------------


def _model_runs(scratch: Path) -> Iterator[Cell]:
    base, target = _smollm2(), models.fetched("deepseek")
    rows = models.tokenizer_files(base).model_rows
    assert rows is not None
    for size, hidden in MODELS.items():
        runs = [(f"model | {size} | {how}", options) for of, how, options in MODEL_RUNS if of == size]
        if all(key in RESULTS.read().get("runs", {}) for key, _ in runs):
            continue  # writing a model takes minutes
        folder = scratch / "model"
        written = synthetic.write_model(folder, int(float(size.split()[0]) * 1e9), hidden, base, rows)
        for key, options in runs:
            yield key, functools.partial(_model_run, written, folder, target, scratch, options)
        shutil.rmtree(folder)
    # What is held before the first tensor is read.
    yield FIXED, functools.partial(_transplanted, base, target, scratch, "mean", clock=True)


def _model_run(
    written: dict[str, Any], folder: Path, target: Path, scratch: Path, options: tuple[str, ...]
) -> dict[str, Any]:
    return written | _transplanted(folder, target, scratch, "mean", *options, compare=not options)


def _transplanted(
    base: Path,
    target: Path,
    scratch: Path,
    method: str,
    *options: str,
    clock: bool = False,
    compare: bool = False,
) -> dict[str, Any]:
    """Run `transplant`, and watch its time and memory; with `clock`, also those of each step."""
    out = scratch / "out"
    arguments = ["transplant", str(base), str(target), str(out), "--method", method, *options]
    arguments += ["--no-write-model-card", "--quiet"]
    started = scratch / "clock.json"
    script = shutil.which("mergekit-tokenadapt", path=str(Path(sys.executable).parent))
    if script is None:
        sys.exit("mergekit-tokenadapt is not installed beside this Python")
    with_clock = [sys.executable, "-m", "benchmarks.size.stages", str(started)]
    found = timing.watched([*(with_clock if clock else [script]), *arguments], ENVIRONMENT)
    samples = found.pop("samples")
    if clock:
        found["steps"] = _steps(json.loads(started.read_text()), samples)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    found["rows"] = manifest["rows"]
    found["rows_by_reason"] = manifest["inputs"][0]["rows_by_reason"]
    found["written"] = sum(f.stat().st_size for f in out.iterdir())
    found["plan"] = (out / "tokenadapt.plan").stat().st_size
    found["shards_out"] = len(list(out.glob("*.safetensors")))
    if compare:
        found["compared"] = _compared(base, out)
    shutil.rmtree(out)
    return found


def _steps(clock: dict[str, Any], samples: list[tuple[float, int]]) -> dict[str, dict[str, float]]:
    """CPU seconds of each step, and the most memory that the process held in it."""
    found = {}
    for name, seconds in clock["seconds"].items():
        stretches = clock["stretches"][name]
        held = [memory for at, memory in samples if any(start <= at <= end for start, end in stretches)]
        found[name] = {"cpu": seconds, "memory": max(held, default=0)}
    return found


def _compared(base: Path, out: Path) -> int:
    """Compare every twentieth tensor that is not adapted with the base, bit by bit; returns how many were compared.

    Raises:
        SystemExit: one of them differs, or names are missing or new.
    """
    import torch
    from safetensors import safe_open

    def places(folder: Path) -> dict[str, Path]:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text())["weight_map"]
            return {name: folder / file for name, file in weight_map.items()}
        with safe_open(str(folder / "model.safetensors"), "pt") as opened:
            return dict.fromkeys(opened.keys(), folder / "model.safetensors")

    def read(file: Path, name: str) -> torch.Tensor:
        with safe_open(str(file), "pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
        return found

    before, after = places(base), places(out)
    if before.keys() != after.keys():
        sys.exit(f"tensors are missing or new: {sorted(before.keys() ^ after.keys())}")
    names = [n for n in sorted(before) if n not in ("model.embed_tokens.weight", "lm_head.weight")][::20]
    for name in names:
        if not torch.equal(read(before[name], name), read(after[name], name)):
            sys.exit(f"{name} is not what it was")
    return len(names)


# --- vocabularies --------------------------------------------------------------------------------


def _vocabulary_runs(scratch: Path) -> Iterator[Cell]:
    for method, size in VOCABULARIES:
        yield f"vocabulary | {size} | {method}", functools.partial(_vocabulary_run, method, size, scratch)


def _vocabulary_run(method: str, size: int, scratch: Path) -> dict[str, Any]:
    folder = scratch / f"tokenizer-{size}"
    if not folder.is_dir():
        synthetic.write_tokenizer(folder, size, _texts())
    return _transplanted(_smollm2(), folder, scratch, method, clock=True)


def _texts() -> list[str]:
    """Return the texts of Gemma's tokens: words and parts of words of many languages, the most frequent first."""
    from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

    gemma = models.tokenizer_files(models.fetched("gemma"))
    return [t.text for t in gemma.vocabulary if t.kind is TokenKind.ORDINARY and t.text]


def _smollm2() -> Path:
    return models.fetched("smollm2")


if __name__ == "__main__":
    main()
