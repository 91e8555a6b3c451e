"""docs/size.md and its curves, from the results."""

# ruff: noqa: E501 - lines of prose, as they stand on the page

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.curves import curves
from benchmarks.common.results import in_words

GB = 1e9
CHUNKS = 0.4
"""GB that rows in the making take beside the matrices: see `_memory`."""
FIXED = "fixed | DeepSeek"
"""Key of a run on a small model."""
BEFORE_WEIGHTS = ("tokenizers", "matching", "pieces", "weights")
"""Steps before the first tensor is read."""
STEPS = {
    "rest": "start-up: imports, mergekit's planning",
    "tokenizers": "reading both tokenizers",
    "matching": "matching the vocabularies",
    "pieces": "splitting new tokens into base tokens",
    "space": "n-gram space",
    "neighbours": "search for the nearest base tokens",
    "weights": "weights, features, examples",
    "applying": "computing rows (for `calibrated`: and the fit)",
    "shards": "writing weights",
    "finishing": "writing tokenizer files, plan and manifest",
}
LARGE = (("70B", 141, 8192, 128_256), ("405B", 812, 16_384, 128_256))
"""Name, GB of bfloat16 weights, width and rows of Llama 3 models."""
LARGE_ROWS = 262_144
"""Rows after a move to Gemma 3's tokenizer."""
DISK = 1.0
"""GB per second that a disk reads, or writes."""
METHODS = ("mean", "hybrid", "calibrated")

Runs = Mapping[str, Mapping[str, Any]]


def pages(results: Mapping[str, Any], missing: Sequence[str] = ()) -> dict[str, str]:
    """Name and content of every file, as far as there are results for it; `missing`: keys of runs to come."""
    runs: Runs = results["runs"]
    models = {key: run for key, run in runs.items() if key.startswith("model |")}
    tokens = {m: _of_method(runs, m) for m in METHODS}
    tokens = {m: found for m, found in tokens.items() if len(found) > 1}
    lines = ["# Size: time and memory", "", *_about(results)]
    made: dict[str, str] = {}
    as_it_is = {key: run for key, run in models.items() if key.endswith("as it is")}
    if as_it_is:
        lines += ["", "## Memory against the size of the model", "", *_memory(runs, models)]
        lines += ["", "## Time against the size of the model", "", *_time(as_it_is)]
        points = sorted((run["bytes"] / GB, run["cpu"]) for run in as_it_is.values())
        held = sorted((run["bytes"] / GB, run["memory"]["RssAnon"] / GB) for run in as_it_is.values())
        made["size-models-time.svg"] = curves("GB of weights", "CPU seconds", {"mean": points})
        made["size-models-memory.svg"] = curves("GB of weights", "GB held", {"mean": held})
    if tokens:
        lines += ["", "## Time and memory against the size of the vocabulary", "", *_vocabularies(tokens)]
        for name, axis, value in (("time", "CPU seconds", _cpu), ("memory", "GB held", _held)):
            made[f"size-vocabularies-{name}.svg"] = curves(
                "thousand tokens",
                axis,
                {m: [(n / 1000, value(run)) for n, run in f.items()] for m, f in tokens.items()},
            )
    if as_it_is:
        lines += ["", "## Estimates for 70B and 405B models, which were not measured", "", *_on_paper(runs, as_it_is)]
    lines += ["", "## Several GPUs (`--multi-gpu`), not measured", "", *MULTI_GPU]
    if missing:
        lines += ["", "## Not measured yet", "", "The same command goes on with these:", ""]
        lines += [f"- `{key}`" for key in missing]
    made["size.md"] = "\n".join(lines) + "\n"
    return made


def _cpu(run: Mapping[str, Any]) -> float:
    return float(run["cpu"])


def _held(run: Mapping[str, Any]) -> float:
    return float(run["memory"]["RssAnon"] / GB)


def _of_method(runs: Runs, method: str) -> dict[int, Mapping[str, Any]]:
    """Return the runs of a method by number of tokens, ascending."""
    found = {}
    for key, run in runs.items():
        kind, size, *of = key.split(" | ")
        if kind == "vocabulary" and of == [method]:
            found[int(size)] = run
    return dict(sorted(found.items()))


def _about(results: Mapping[str, Any]) -> list[str]:
    packages = in_words(results["setting"]["packages"])
    return [
        "`python -m benchmarks.size` makes this page; all figures are in",
        "[results/size.json](../benchmarks/results/size.json). Every run is `mergekit-tokenadapt transplant` in a",
        "process of its own, on one thread. The machine did other work at the same time, so times are CPU seconds of",
        "that process. Files of weights are mapped. The parts that are read count as resident (`RssFile`), but the kernel",
        "can reclaim them at any time. *Held* is what a process really needs: anonymous memory (`RssAnon`), sampled every",
        "20 ms.",
        f"Python {results['setting']['python']}, {packages}.",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


# --- models --------------------------------------------------------------------------------------


def _fixed(runs: Runs) -> float:
    """GB held before the first tensor is read, with SmolLM2's and DeepSeek's tokenizers."""
    steps = runs[FIXED]["steps"] if FIXED in runs else {}
    return max((steps[s]["memory"] for s in BEFORE_WEIGHTS if s in steps), default=0) / GB


def _matrix(run: Mapping[str, Any]) -> float:
    """GB of a new vocabulary matrix, which is the largest tensor."""
    return float(run["rows"] * run["hidden"] * 2 / GB)


def _bound(fixed: float, matrix: float, shard: float) -> float:
    return fixed + CHUNKS + max(shard, matrix) + matrix


def _memory(runs: Runs, models: Runs) -> list[str]:
    fixed = _fixed(runs)
    rows = []
    for key, run in sorted(models.items(), key=lambda item: (item[1]["bytes"], item[0])):
        shard = 5.0 if "5 GB" in key.split(" | ")[2] else 1.0
        matrix = _matrix(run)
        figures = [run["bytes"] / GB, matrix, _bound(fixed, matrix, shard)]
        figures += [run["memory"][name] / GB for name in ("RssAnon", "RssFile", "VmHWM")]
        rows.append([key.split(" | ")[2], *(f"{value:.2f}" for value in figures)])
    head = ["run", "weights", "L", "bound", "**held**", "mapped", "VmHWM"]
    return [
        "Synthetic Llamas with SmolLM2's tokenizer get DeepSeek's tokenizer by the method `mean`. Their weights are random bfloat16,",
        "untied, in shards of 1 GB. All figures are GB. `L` is one new vocabulary matrix, the largest tensor. In `float16` runs",
        "every tensor is converted, and therefore held instead of mapped.",
        "",
        *_table(head, rows),
        "",
        "The **bound** is that for two matrices:",
        "",
        "    held <= F + C + max(S, L) + L",
        "",
        f"- F, {fixed:.2f} GB: Python, torch, both tokenizers and the plan, before the first tensor is read.",
        f"- C, {CHUNKS} GB: rows that are being computed, in float32, in chunks of at most 32 MB. Each chunk is written into the new",
        "  matrix in the matrix's dtype, so there is no second copy of a matrix. (`calibrated` also holds the old matrix in float32.)",
        "- max(S, L): the shard that waits to be written. mergekit's writer holds an output shard until the next tensor no longer fits",
        "  into `--out-shard-size` S (its help says parameters, but it counts bytes). A tensor larger than S is a shard of its own.",
        "- L: the matrix that is being computed.",
        "",
        "To save memory, lower S. mergekit's own default is 5 GB. **`mergekit-tokenadapt` uses 1 GB**; with stock commands pass",
        "`mergekit-yaml ... --out-shard-size 1B`. Unchanged tensors stay mapped for any S. They are held with `--dtype`, with merge",
        "methods other than passthrough, if they come from `.bin` files, and with safetensors before 0.8, which copies a shard to",
        "write it (from reading its version 0.7; not measured). `--async-write` adds the shards that wait for the disk.",
        "",
        "![GB held against GB of weights](size-models-memory.svg)",
    ]


def _slope(as_it_is: Runs) -> tuple[float, float]:
    """Return the CPU seconds per GB written, and the CPU seconds if nothing were written: a fitted line."""
    sizes, seconds = zip(*((run["written"] / GB, run["cpu"]) for run in as_it_is.values()), strict=True)
    slope, start = np.polyfit(sizes, seconds, 1) if len(sizes) > 1 else (seconds[0] / sizes[0], 0.0)
    return float(slope), float(start)


def _time(as_it_is: Runs) -> list[str]:
    slope, start = _slope(as_it_is)
    rows = [
        [f"{run['bytes'] / GB:.1f}", f"{run['written'] / GB:.1f}", f"{run['cpu']:.0f}", f"{run['seconds']:.0f}"]
        for run in sorted(as_it_is.values(), key=lambda run: run["bytes"])
    ]
    return [
        *_table(["GB of weights", "GB written", "CPU seconds", "wall seconds (busy machine)"], rows),
        "",
        f"CPU time is a straight line: {start:.0f} s + {slope:.1f} s for every GB written. The constant is for imports, tokenizers and plan.",
        "The slope is for copying bytes from the page cache of one file to that of another, and for the rows of the new matrices",
        "(linear in rows x width). On an idle machine the disk sets the pace: every byte is read and written once.",
        "",
        "![CPU seconds against GB of weights](size-models-time.svg)",
    ]


# --- vocabularies --------------------------------------------------------------------------------


def _vocabularies(tokens: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    sizes = sorted({n for found in tokens.values() for n in found})
    rows = []
    for size in sizes:
        row = [f"{size:,}"]
        for found in tokens.values():
            run = found.get(size)
            row += [f"{run['cpu']:.0f}", f"{_held(run):.2f}"] if run else ["-", "-"]
        rows.append(row)
    head = ["tokens", *(f"{m}, {what}" for m in tokens for what in ("CPU s", "GB held"))]
    lines = [
        "SmolLM2-135M (49,152 rows of 576 numbers, tied) gets synthetic byte-level BPE tokenizers. Their tokens are the words of",
        "Gemma's vocabulary, merged character by character, and, where these do not suffice, pairs of words. `-`: not measured yet,",
        "or too slow.",
        "",
        *_table(head, rows),
        "",
        "![CPU seconds against tokens](size-vocabularies-time.svg) ![GB held against tokens](size-vocabularies-memory.svg)",
        "",
        "The next table gives the CPU seconds of each step for the two largest vocabularies of each method. p is the exponent of",
        "growth between them: seconds ~ *new* tokens^p, so 1 is linear. It is given for steps of 2 s or more.",
        "",
    ]
    head, columns = ["step"], list[tuple[Mapping[str, Any], Mapping[str, Any]]]()
    for method, found in tokens.items():
        before, last = list(found)[-2:]
        head += [f"{method}, {before:,}", f"{last:,}", "p"]
        columns.append((found[before], found[last]))
    rows = []
    for step, words in STEPS.items():
        row = [words]
        for small, large in columns:
            one, other = (run["steps"].get(step, {}).get("cpu", 0.0) for run in (small, large))
            more = large["rows_by_reason"]["new"] / small["rows_by_reason"]["new"]
            steep = np.log(other / one) / np.log(more) if one > 0 and other >= 2 else None
            row += [f"{one:.1f}", f"{other:.1f}", f"{steep:.2f}" if steep is not None else ""]
        rows.append(row)
    return [
        *lines,
        *_table(head, rows),
        "",
        "By its operations, each step is linear in the following quantity, where N is the number of new tokens, V of old tokens, Z of",
        "pieces of the new tokens, and A = 256 dimensions of the n-gram space:",
        "",
        "- Reading, matching, splitting, plan and manifest: bytes of the tokenizer files, and Z. Each token is a Python object; these",
        "  objects are also most of the memory that `mean` holds.",
        "- N-gram space: n-grams of all texts, and A times as many multiplications for the randomised decomposition. Its tall matrices",
        "  (texts x A, several at a time) should dominate the memory for large N.",
        "- Nearest old tokens: N x V x A multiplications, in blocks of at most 512 MB. This is most of the slope of `hybrid` and",
        "  `calibrated`. It is not quadratic in the new vocabulary, because V belongs to the base. `calibrated` also searches the",
        "  neighbours of old tokens, V x V x A, for any target.",
        "- Making rows: Z x width. `calibrated` adds the fit, which depends on V and not on N, and N x 7 P x width multiplications",
        "  (P = at most 768) for the prediction.",
        "- Writing: rows x width.",
        "",
        "By these counts no step grows faster than its input. The measured p exceeds 1 for short steps, and for the nearest old tokens from",
        "256,000 tokens on. There the new tokens are pairs of words. The likely reason (not examined) is that more old tokens are nearly as",
        "near as the nearest one, and the 8-bit screen must compare all of these exactly. Extrapolated along a straight line through the",
        f"last two points to a million tokens, not measured: {_drawn_on(tokens)}.",
    ]


def _drawn_on(tokens: Mapping[str, Mapping[int, Mapping[str, Any]]], to: int = 1_000_000) -> str:
    """Return, as text, the CPU seconds of each method extrapolated to a number of tokens that was not measured."""
    texts = []
    for method, found in tokens.items():
        (small, one), (large, other) = ((n, run["cpu"]) for n, run in list(found.items())[-2:])
        if large < to:
            texts.append(f"`{method}` {other + (other - one) / (large - small) * (to - large):.0f} CPU s")
    return ", ".join(texts) or "nothing"


# --- on paper ------------------------------------------------------------------------------------


def _on_paper(runs: Runs, as_it_is: Runs) -> list[str]:
    slope, start = _slope(as_it_is)
    fixed = _fixed(runs) + 0.5  # a larger vocabulary than DeepSeek's
    rows = []
    for name, weights, width, old_rows in LARGE:
        matrix, old = LARGE_ROWS * width * 2 / GB, old_rows * width * 2 / GB
        written = weights + 2 * (matrix - old)
        disk, cpu = (weights + written) / DISK / 60, (start + slope * written) / 60
        figures = [f"{weights} GB", f"{written:.0f} GB", f"{matrix:.1f} GB", f"{_bound(fixed, matrix, 1.0):.0f} GB"]
        rows.append([name, *figures, f"{old_rows * width * 4 / GB:.0f} GB", f"{disk:.0f} min", f"{cpu:.0f} min"])
    head = ["Llama 3", "read", "written", "L", "held", "`calibrated` holds more", "disk", "CPU, one thread"]
    return [
        f"These figures follow from the bound and the slope above, for untied bfloat16 models that get Gemma 3's {LARGE_ROWS:,} rows. *Disk*",
        f"assumes {DISK:g} GB/s for reads and writes on the same disk. Reads and writes alternate, so a run takes about the disk time plus the CPU",
        "time that is not spent on copying.",
        "",
        *_table(head, rows),
        "",
        "Two vocabulary matrices must fit into memory; the model need not. A plan needs no weights, so for the same tokenizers it takes the",
        "same time as for SmolLM2 above. Only the fit of `calibrated` reads the matrices. `calibration_text` is different: it",
        "runs the whole model on a text, and needs the memory for that.",
    ]


MULTI_GPU = [
    "There was no machine with GPUs to measure on. This section follows from the source code of mergekit 0.1.5.",
    "",
    "- The plan (and the fit of `calibration_text`) is a main-thread task without tensors as inputs. It runs first, once, on the",
    "  device of `--cuda`. More GPUs do not make it faster.",
    "- The remaining graph has one island per output tensor. mergekit distributes islands over the GPUs by their number of tasks, not",
    "  by their bytes, and one thread per GPU works through its islands. Input and output matrix are two islands, so two GPUs can",
    "  compute them at the same time. **One matrix is never split**: a GPU must hold an old matrix, a new matrix and the chunks.",
    "- With passthrough all other tensors are read and written without arithmetic. GPUs have nothing to do there, and the disk sets the",
    "  pace. But several tensors are in progress at once, so memory may hold one tensor for each GPU more than the bound says (L",
    "  for each of the two vocabulary matrices).",
    "- All threads share one reader per model and one writer, each behind a lock. The reader keeps one input shard open and opens",
    "  another one if a thread asks for it. This is cheap for safetensors, which are mapped, but `.bin` shards would be loaded again and",
    "  again. Timing decides which tensors share an output shard; it does not change their bytes.",
    "- Results wait in main memory until their shard is written. With `--low-cpu-memory` they wait on the GPU that computed them, which",
    "  then holds its part of up to `--out-shard-size` more bytes.",
]
