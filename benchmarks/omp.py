"""Orthogonal matching pursuit: this package's and mergekit's, on the same tokens in one run.

    python -m benchmarks.omp                   # about 8 minutes; resumes where it stopped
    python -m benchmarks.omp --page-only

mergekit-tokensurgeon's `batch_omp` and `method: omp` get the same rows in batches of mergekit's default size. They take
turns batch by batch, so that other work on the machine slows down both. All new tokens would take mergekit hours, so
times are given per token, and extrapolated. Writes results/omp.json and docs/omp.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import models
from benchmarks.common.results import ROOT, Cell, Results, in_words, page_only, setting, write_page
from benchmarks.common.timing import one_thread
from mergekit_tokenadapt.numerics.inner_products import Search, choose_search

RESULTS = Results("omp")
PACKAGES = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "scikit-learn")

BASE, DONOR = "smollm2", "gemma"
BATCH = 512
"""The default of mergekit-tokensurgeon."""
TOLERANCE = 1e-4
SIDES = ("mergekit", "ours")


@click.command()
@click.option("--tokens", default=2000, show_default=True, help="New tokens, drawn at random with a fixed seed.")
@click.option("--k", default=64, show_default=True, help="Shared tokens per new one.")
@page_only
@click.option("--peak", type=click.Choice(SIDES), hidden=True, help="Print the peak memory of one batch of one side.")
def main(tokens: int, k: int, page_only: bool, peak: str | None) -> None:
    """Measure, and write results/omp.json and docs/omp.md."""
    one_thread()
    if peak:
        click.echo(json.dumps(peak_memory(peak, k)))
        return
    if not page_only:
        measure(tokens, k)
    write_page("omp.md", page(RESULTS.for_page()))


@dataclass(frozen=True)
class Rows:
    """What both sides get: N new tokens, S shared tokens, D columns in the donor, E columns in the base model."""

    new_ND: Tensor
    atoms_SD: Tensor
    base_SE: Tensor


def load() -> Rows:
    """The rows of the two models, as the method `omp` sees them, in float32."""
    from mergekit_tokenadapt.models.donor import Donor
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
    from mergekit_tokenadapt.transfer.examples import shared_rows
    from mergekit_tokenadapt.transfer.transfer import Transfer

    base, donor = open_model(str(models.fetched(BASE))), Donor(str(models.fetched(DONOR)))
    target = open_model(donor.name).tokenizer
    transfer = Transfer.of(
        AdaptConfig(method="omp", rows="exact"),
        base=base.tokenizer,
        target=target,
        base_rows=base.num_rows,
        donor=donor,
    )
    shared = shared_rows(transfer)
    return Rows(
        donor.rows_of(torch.from_numpy(transfer.new_ids)),
        donor.rows_of(torch.tensor(list(shared.values()))),
        base.rows(base.input_matrix)[torch.tensor(list(shared))].float(),
    )


def measure(tokens: int, k: int) -> None:
    """Measure what is missing, batch by batch; the setting must be that of the results."""
    rows = load()
    search, preparing = timed(lambda: choose_search(rows.atoms_SD))
    about = {
        **setting(*PACKAGES),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "search": type(search).__name__,
        "k": k,
        "tokens": tokens,
        "new_tokens": len(rows.new_ND),
        "shared_tokens": len(rows.atoms_SD),
        "width": rows.atoms_SD.shape[1],
        "base_row_length": round(float(rows.base_SE.norm(dim=1).median()), 2),
    }
    RESULTS.check_setting(RESULTS.read().get("setting") == about)
    with RESULTS.change() as results:
        results |= {"setting": about, "preparing": results.get("preparing", preparing)}
    peaks: list[Cell] = [(side, functools.partial(_peak_memory_of_its_own, side, k)) for side in SIDES]
    RESULTS.measure_missing(peaks, under="peak_memory")
    drawn = torch.randperm(len(rows.new_ND), generator=torch.Generator().manual_seed(0))[:tokens]
    batches = enumerate(torch.split(drawn, BATCH))
    RESULTS.measure_missing(
        ((str(n), functools.partial(compare, rows, places, k, search)) for n, places in batches), under="batches"
    )


def _peak_memory_of_its_own(side: str, k: int) -> Any:
    """The peak memory of one side, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.omp", "--peak", side, "--k", str(k)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def compare(rows: Rows, places: Tensor, k: int, search: Search) -> dict[str, Any]:
    """Run both sides on the same new tokens; returns their times and how their rows differ."""
    targets = rows.new_ND[places]
    theirs, their_time = timed(lambda: run("mergekit", targets, rows.atoms_SD, k))
    ours, our_time = timed(lambda: run("ours", targets, rows.atoms_SD, k, search))
    made = [torch.bmm(weights[:, None].float(), rows.base_SE[ids])[:, 0] for ids, weights in (theirs, ours)]
    differences = (made[0] - made[1]).abs().amax(dim=1)
    is_other = (theirs[0].sort(dim=1).values != ours[0].sort(dim=1).values).any(dim=1)
    return {
        "tokens": len(places),
        "mergekit": their_time,
        "ours": our_time,
        "differences": [float(f"{d:.2e}") for d in differences.sort().values],
        "largest_with_the_same_atoms": float(differences[~is_other].max()),
        "other_atoms": [tie(targets[n], rows.atoms_SD, theirs[0][n], ours[0][n]) for n in is_other.nonzero().flatten()],
    }


def run(side: str, targets: Tensor, atoms: Tensor, k: int, search: Search | None = None) -> tuple[Tensor, Tensor]:
    """Run one side; returns the shared tokens that it selects and their weights, [N, k] each."""
    if side == "mergekit":
        from mergekit.tokensurgeon import batch_omp

        ids, weights = batch_omp(targets, atoms, k)
        return ids, weights
    from mergekit_tokenadapt.numerics.matching_pursuit import matching_pursuit

    found = matching_pursuit(targets, atoms, k, quiet=True, search=search)
    return found.ids.view(len(targets), k), found.weights.view(len(targets), k)


def tie(target: Tensor, atoms: Tensor, theirs: Tensor, ours: Tensor) -> dict[str, float]:
    """Describe the first step at which the two sides select different atoms.

    The correlations of both atoms with the residual are computed in float64.
    """
    step = int((theirs != ours).nonzero()[0])
    chosen = atoms[ours[:step]].double()
    left = target.double() - chosen.T @ torch.linalg.lstsq(chosen.T, target.double()[:, None]).solution[:, 0]
    first, second = (float((atoms[ids[step]].double() @ left).abs()) for ids in (theirs, ours))
    return {"step": step, "mergekit": first, "ours": second, "relative_gap": second / first - 1}


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result of the work, and its wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    done = work()
    return done, {
        "wall": round(time.perf_counter() - wall, 3),
        "processor": round(time.process_time() - processor, 3),
    }


def peak_memory(side: str, k: int) -> dict[str, int]:
    """Measure the memory that one batch needs beyond the rows, sampled every 5 milliseconds."""
    rows = load()
    import mergekit.tokensurgeon  # noqa: F401

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed, and would hand it out again
        ctypes.CDLL(None).malloc_trim(0)
    targets, before, seen, is_done = rows.new_ND[:BATCH].clone(), own_memory(), [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.005):
            seen.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(side, targets, rows.atoms_SD, k)
    is_done.set()
    watcher.join()
    return {"megabytes": round((max(seen) - before) / 1e6)}


def own_memory() -> int:
    """Return the bytes of memory that this process holds; mapped files do not count."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    about, batches = results["setting"], list(results["batches"].values())
    tokens = sum(b["tokens"] for b in batches)
    seconds = {(s, c): sum(b[s][c] for b in batches) / tokens for s in SIDES for c in ("wall", "processor")}
    ratio = {c: seconds["mergekit", c] / seconds["ours", c] for c in ("wall", "processor")}
    differences = np.array([d for b in batches for d in b["differences"]])
    other = [tie for b in batches for tie in b["other_atoms"]]
    gap = max((abs(tie["relative_gap"]) for tie in other), default=0.0)
    same = max(b["largest_with_the_same_atoms"] for b in batches)
    names = {"mergekit": "mergekit's `batch_omp`", "ours": "`method: omp`"}
    lines = [
        "# Orthogonal matching pursuit: measured",
        "",
        f"SmolLM2-135M gets rows with Gemma 3 270M as donor: {about['shared_tokens']:,} shared tokens of width",
        f"{about['width']}, {about['new_tokens']:,} new tokens, k = {about['k']}. Both implementations take",
        f"turns on batches of {BATCH} of the same {tokens:,} new tokens, drawn at random.",
        "`python -m benchmarks.omp` makes this page; all figures are in",
        "[results/omp.json](../benchmarks/results/omp.json).",
        f"Threads: {about['threads']}; CPU with {about['cpu']}; search of `method: omp`: `{about['search']}`.",
        f"Versions: {in_words(about['packages'])}.",
        "",
        "| | wall ms per token | processor ms per token | hours for all new tokens, extrapolated | memory of a batch |",
        "|---|---|---|---|---|",
    ]
    for side in SIDES:
        wall, processor = (1000 * seconds[side, c] for c in ("wall", "processor"))
        prepared = results["preparing"]["wall"] if side == "ours" else 0
        hours = (prepared + seconds[side, "wall"] * about["new_tokens"]) / 3600
        peak = results["peak_memory"][side]["megabytes"]
        lines.append(f"| {names[side]} | {wall:.1f} | {processor:.1f} | {hours:.1f} h | {peak:,.0f} MB |")
    lines += [
        f"| ratio | {ratio['wall']:.1f} | {ratio['processor']:.1f} | | |",
        "",
        f"`method: omp` prepares its search once, in {results['preparing']['wall']:.1f} s. Its hours include this",
        "time.",
        "The command mergekit-tokensurgeon does more for every batch than what is timed here.",
        "The machine had other work at the same time, so processor time is given as well.",
        "Memory is what a batch needs beyond the rows of the two models.",
        "",
        "The two sets of rows are compared number by number. SmolLM2's own rows have a length of",
        f"{about['base_row_length']}. The largest difference in a row has a median of {np.median(differences):.1e}.",
        f"{np.mean(differences <= TOLERANCE):.2%} of the rows agree to {TOLERANCE:.0e}. If both select the same shared",
        f"tokens (the atoms of the combination), all rows agree to {same:.1e}.",
        "",
        f"For {len(other)} of {tokens:,} tokens the two select another atom at some step, and the rest of the",
        f"combination differs, by up to {differences.max():.2f} in one number of a row. At the first such step the",
        f"exact correlations of the two atoms, in float64, differ by a relative {gap:.1e} at most. This is less than",
        f"float32 can resolve in a sum of {about['width']} products. Our atom has the larger correlation in",
        f"{sum(tie['relative_gap'] >= 0 for tie in other)} of these cases.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
