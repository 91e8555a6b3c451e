"""How fast is a swap? Against mergekit-tokensurgeon, and against the paper's method as a loop over tokens.

    python -m benchmarks.speed                 # SmolLM2-135M onto Gemma's 262,144 tokens
    python -m benchmarks.speed --part swaps    # or: steps
    python -m benchmarks.speed --page-only

Writes results/speed.json and docs/speed.md. One thread. The ratios are what counts: to measure anew, delete
results/speed.json and measure everything in one run. Every swap is a command in a process of its own, so that its CPU
time and its peak memory are its own.

- swaps: whole commands, from folder to folder.
- steps: what `hybrid` spends its time on, and the same weights token by token in a plain loop.

`omp` of both is in benchmarks/omp.py: mergekit-tokensurgeon's would take hours here.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from benchmarks.common import models
from benchmarks.common.results import Results, in_words, page_only, say, versions, write_page
from benchmarks.common.timing import CommandFailedError, one_thread, watched

RESULTS = Results("speed")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")


BIN = Path(sys.executable).parent
PARTS = ("swaps", "steps")
SAMPLE = 1000
"""New tokens that the plain loop makes."""
MAX_CPU = 300
"""Seconds of CPU time that a command gets."""
ROUNDING = 0.005
"""Of rows in bfloat16, whose numbers are below 1."""
T = TypeVar("T")


@click.command()
@click.option("--part", "chosen", multiple=True, type=click.Choice(PARTS), help="Only these. Repeatable.")
@page_only
def main(chosen: tuple[str, ...], page_only: bool) -> None:
    """Measure, and write results/speed.json and docs/speed.md."""
    one_thread()
    if not page_only:
        base, donor = models.fetched("smollm2"), models.fetched("gemma")
        if "steps" in (chosen or PARTS) and "steps" not in RESULTS.read():
            say("steps")
            measured = steps(base, donor)
            with RESULTS.change() as results:
                results |= {"steps": measured, **about()}
        if "swaps" in (chosen or PARTS):
            cells = [(name, functools.partial(swap, command, base, donor)) for name, command in SWAPS.items()]
            RESULTS.measure_missing(cells, under="swaps", about=about)
    write_page("speed.md", page(RESULTS.for_page()))


def about() -> dict[str, Any]:
    """What the file says of the newest run."""
    return {"packages": versions(*PACKAGES)}


# --- whole commands --------------------------------------------------------------------------------

MODELS = ("BASE", "TARGET")
OURS = ["mergekit-tokenadapt", "transplant", "BASE", "TARGET", "OUT", "--quiet"]
SURGEON = ["mergekit-tokensurgeon", "BASE", "TARGET", "OUT", "--quiet"]
SWAPS = {
    "mergekit-tokensurgeon -a subword": [*SURGEON, "-a", "subword"],
    "mergekit-tokensurgeon -a common_interpolation": [*SURGEON, "-a", "common_interpolation"],
    "the same, of models in float32": [
        *(f"{w}32" if w in MODELS else w for w in SURGEON),
        "-a",
        "common_interpolation",
    ],
    "mean": [*OURS, "--method", "mean"],
    "local, ngram": [*OURS, "--method", "local", "--auxiliary", "ngram"],
    "hybrid, ngram": [*OURS, "--method", "hybrid", "--auxiliary", "ngram"],
    "calibrated, ngram": [*OURS, "--method", "calibrated", "--auxiliary", "ngram"],
    "donor_linear": [*OURS, "--method", "donor_linear"],
}


def swap(command: list[str], base: Path, target: Path) -> dict[str, Any]:
    """Run a command; returns CPU and wall seconds and memory, or its last error line where it fails."""
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
        places = {"BASE": str(base), "TARGET": str(target), "OUT": f"{temporary}/out"}
        for model in MODELS:
            if f"{model}32" in command:
                places[f"{model}32"] = str(in_float32(Path(places[model]), Path(temporary, model)))
        arguments = [str(BIN / command[0]), *(places.get(word, word) for word in command[1:])]
        # A cold cache: nothing that an earlier run has worked out is there.
        try:
            seen = watched(arguments, {"MERGEKIT_TOKENADAPT_CACHE": f"{temporary}/cache"}, MAX_CPU)
        except CommandFailedError as failure:
            return {"failed": str(failure).splitlines()[-1]}
    memory = {"held": seen["memory"]["RssAnon"], "peak": seen["memory"]["VmHWM"]}
    return {"cpu": seen["cpu"], "wall": seen["seconds"], **memory}


def in_float32(model: Path, folder: Path) -> Path:
    """Copy a model folder, and convert all weights to float32."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    save_file({name: t.float() for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return folder


# --- the steps of one swap -------------------------------------------------------------------------


def steps(base: Path, target: Path) -> dict[str, Any]:
    """Measure the CPU seconds of each step of `hybrid`, and of the plain loop for each token."""
    from safetensors.torch import load_file

    from mergekit_tokenadapt.tokenizer.files import load_tokenizer
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
    from mergekit_tokenadapt.transfer.planning import plan_rows
    from mergekit_tokenadapt.transfer.transfer import Transfer

    clock = Clock()
    files = clock("read both tokenizers", lambda: [load_tokenizer(str(f)) for f in (base, target)])
    old, _ = clock("what each token is", lambda: [f.vocabulary for f in files])
    hybrid = AdaptConfig(method="hybrid", rows="exact")
    transfer = clock(
        "match the vocabularies",
        lambda: Transfer.of(hybrid, base=files[0], target=files[1], base_rows=old.num_ids, quiet=True),
    )
    clock("prepare the base tokenizer", lambda: transfer.segmenter)
    clock("segment the new tokens", lambda: transfer.pieces)
    clock("embed all texts", lambda: transfer.vectors_of(transfer.candidates))
    plan = clock("weigh, nearest neighbours included", lambda: plan_rows(transfer))
    tensors = load_file(str(base / "model.safetensors"))
    matrix = next(t for name, t in sorted(tensors.items()) if "embed" in name)
    rows = clock("apply the plan to a matrix", lambda: plan.apply(matrix).rows)
    whole = [t for t in transfer.new_tokens if t.text is not None]  # the loop knows strings only
    sample = whole[:: max(1, len(whole) // SAMPLE)][:SAMPLE]
    loop_rows, seconds = plain_loop(transfer, sample, files[0], matrix.float())
    made = rows[torch.tensor([t.id for t in sample])].float()
    return {
        "seconds": clock.seconds,
        "new_tokens": len(transfer.new_tokens),
        "old_tokens": len(transfer.candidates),
        "dimensions": transfer.vectors_of(sample[:1]).shape[1],
        "products_per_second": products_per_second(transfer),
        "matrix_bytes": rows.numel() * rows.element_size(),
        "loop_sample": len(sample),
        "loop_seconds_per_token": seconds / len(sample),
        "loop_rows_with_ties": ties(transfer, sample),
        "loop_rows_that_differ": int(((made - loop_rows).abs().amax(dim=1) > ROUNDING).sum()),
    }


def products_per_second(transfer: Any, block: int = 512, rounds: int = 20) -> float:
    """Return how many multiplications and additions per CPU second a plain float32 matrix product does."""
    new, old = transfer.vectors_of(transfer.new_tokens[:block]), transfer.vectors_of(transfer.candidates)
    started = time.process_time()
    for _ in range(rounds):
        new @ old.T
    return float(2 * rounds * len(new) * old.numel() / (time.process_time() - started))


def ties(transfer: Any, tokens: list[Any]) -> int:
    """Count tokens whose third and fourth neighbour are equally near: both choices among these two are correct."""
    nearest = (transfer.vectors_of(tokens) @ transfer.vectors_of(transfer.candidates).T).topk(4, dim=1).values
    return int((nearest[:, 2] - nearest[:, 3] < 1e-5).sum())


class Clock:
    """CPU seconds of this process by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], T]) -> T:
        """Time a step, and hand on what it gives."""
        started = time.process_time()
        result = step()
        self.seconds[name] = time.process_time() - started
        return result


def plain_loop(transfer: Any, tokens: list[Any], files: Any, matrix_VD: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Compute the paper's hybrid rows token by token; returns float32 rows [tokens, D] and CPU seconds.

    Vectors are at hand, as from a cache, and are not counted; temperature 0.3, 3 neighbours, global weight 0.3.
    """
    vectors = dict(zip((t.bytes for t in tokens), transfer.vectors_of(tokens), strict=True))
    old_vectors = transfer.vectors_of(transfer.candidates)
    place = {t.id: n for n, t in enumerate(transfer.candidates)}
    encoder = files.fast_tokenizer()
    rows = []
    started = time.process_time()
    for token in tokens:
        vector = vectors[token.bytes]
        pieces = encoder.encode(token.text, add_special_tokens=False).ids
        length = max(1, len(token.text))
        similarities = [float(vector @ old_vectors[place[i]]) for i in pieces]
        exponentials = [math.exp(s) for s in similarities]
        scores = []
        for piece, exponential in zip(pieces, exponentials, strict=True):
            share = len(transfer.base.vocabulary.by_id[piece].bytes.decode("utf-8", errors="replace")) / length
            scores.append(math.exp((exponential / sum(exponentials) + share) / 2 / 0.3))
        local: Any = sum(s / sum(scores) * matrix_VD[i] for s, i in zip(scores, pieces, strict=True))
        nearest = (old_vectors @ vector).topk(3)
        kept = nearest.values >= 0
        weights = (nearest.values[kept] / 0.3).softmax(dim=0)
        if len(weights):
            ids = [transfer.candidates[n].id for n in nearest.indices[kept].tolist()]
            overall = sum(w * matrix_VD[i] for w, i in zip(weights, ids, strict=True))
            local = 0.7 * local + 0.3 * overall
        rows.append(local)
    return torch.stack(rows), time.process_time() - started


# --- tables ----------------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Speed",
        "",
        "SmolLM2-135M-Instruct gets the 262,144 tokens of Gemma 3. `python -m benchmarks.speed` makes this page, in",
        "one run on one thread; all figures are in [results/speed.json](../benchmarks/results/speed.json).",
        "Seconds are CPU time, so other work on the machine hardly matters.",
        f"Versions: {in_words(results['packages'])}.",
    ]
    if "swaps" in results:
        lines += ["", "## Whole commands, from folder to folder", "", *_swaps(results["swaps"])]
    if "steps" in results:
        lines += ["", "## The steps of `hybrid`", "", *_steps(results["steps"])]
    return "\n".join(lines) + "\n"


def _swaps(swaps: dict[str, Any]) -> list[str]:
    reference = swaps["mergekit-tokensurgeon -a subword"]
    lines = [
        "Memory *held* is anonymous memory. *Peak* also counts mapped files, which the kernel can reclaim at any time.",
        "`mean` is our counterpart of `subword`: both take the mean of the pieces. [omp.md](omp.md) compares the two",
        "implementations of `omp`.",
        "",
        "| command | CPU seconds | against subword | held, GB | against subword | peak, GB | wall seconds |",
        "|---" * 7 + "|",
    ]
    for name in SWAPS:
        one = swaps.get(name)
        if one is None:
            continue
        if "failed" in one:
            lines.append(f"| {name} | {one['failed'][:100]} | | | | | |")
            continue
        ratios = [f"{one[k] / reference[k]:.2f}" if "failed" not in reference else "" for k in ("cpu", "held")]
        held, peak = one["held"] / 1e9, one["peak"] / 1e9
        lines.append(
            f"| {name} | {one['cpu']:.0f} | {ratios[0]} | {held:.2f} | {ratios[1]} | {peak:.2f} | {one['wall']:.0f} |"
        )
    return lines


def _steps(found: dict[str, Any]) -> list[str]:
    lines = ["| step | CPU seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in found["seconds"].items()]
    ours = sum(found["seconds"][k] for k in ("segment the new tokens", "weigh, nearest neighbours included"))
    ours += found["seconds"]["apply the plan to a matrix"]
    loop = found["loop_seconds_per_token"] * found["new_tokens"]
    weigh = found["seconds"]["weigh, nearest neighbours included"]
    products = 2 * found["new_tokens"] * found["old_tokens"] * found["dimensions"]
    lines += [
        "",
        f"A plain loop over tokens takes {1000 * found['loop_seconds_per_token']:.1f} ms for each of "
        f"{found['loop_sample']:,} tokens if their vectors are given: {loop:.0f} s for all {found['new_tokens']:,}. "
        f"The same work here (segment, weigh, apply) takes {ours:.0f} s, **{loop / ours:.0f} times as fast**. "
        f"{found['loop_rows_that_differ']} of the loop's rows differ from ours by more than the rounding of bfloat16. "
        f"{found['loop_rows_with_ties']} of its tokens have a third and a fourth neighbour that are equally near, so "
        "that either is right.",
        "",
        f"The lower bound: comparing every new token with every old one is {products / 1e12:.1f} tera-operations. A "
        f"plain float32 product takes {products / found['products_per_second']:.0f} s here, without the search for the "
        f"largest values. Ours uses 8-bit products and compares only the candidates near the top exactly. It takes "
        f"{weigh:.0f} s, including the weights. Moving bytes hardly matters: the new matrix has "
        f"{found['matrix_bytes'] / 1e6:.0f} MB. Most of the remaining time is the n-gram space "
        f"({found['seconds']['embed all texts']:.0f} s), and most of that is its singular value decomposition.",
    ]
    return lines


if __name__ == "__main__":
    main()
