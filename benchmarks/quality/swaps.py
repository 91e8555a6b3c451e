"""One measurement: swap the tokenizer with one method, and score the result."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.common import models, texts, word_vectors
from benchmarks.common.results import ROOT
from benchmarks.quality.cases import BASE, DOMAINS, METHODS, PAIRS, TEXT_SETS

TRAINING_RATE, TRAINING_PASSES = 1e-3, 2
"""Learning rate of AdamW at the start (it falls to 0; a step takes a passage of about 2,000 bytes), and epochs."""
EMBEDDINGS = "model.embed_tokens.weight"
"""The vocabulary matrix of both models, which are tied."""


def run(pair: str, method: str, max_bytes: int) -> dict[str, Any]:
    """Swap the tokenizer, and score: returns bits and bytes of every document, and what the manifest says."""
    base, target = (models.fetched(name) for name in PAIRS[pair])
    if method == BASE:
        return {**score(base, max_bytes), "tokens": num_tokens(base, max_bytes)}
    adapt = with_places(METHODS[method])
    with_omp, gradient_bytes = adapt.pop("omp", False), adapt.pop("gradients", 0)
    if "tokensurgeon" in adapt:
        return run_tokensurgeon(base, target, adapt["tokensurgeon"], max_bytes)
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


def with_places(adapt: Mapping[str, Any]) -> dict[str, Any]:
    """Return an `adapt` block with paths in place of the short names of models, of the mixed text and of its words."""
    found = {
        option: str(word_vectors.trained()) if value == "mixed words" else value for option, value in adapt.items()
    }
    if found.get("auxiliary") in models.MODELS:
        found["auxiliary"] = str(models.fetched(found["auxiliary"]))
    for option in ("calibration_text", "text"):
        if found.get(option) == "mixed":
            found[option] = str(texts.mixed())
    return found


def put_omp_rows(out: Path, base: Path, target: Path, max_bytes: int) -> int:
    """Replace the rows of the new tokens that occur in the texts with rows by `omp` (k = 64).

    All rows would take hours. Returns the number of rows.
    """
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
    """Train input and output rows on the calibration text, with the rest of the model frozen."""
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
    """Return the documents that are scored, by domain."""
    from mergekit_tokenadapt.texts.builtin import builtin_text

    if text_set == "alike":
        return texts.alike()
    return {domain: list(builtin_text(domain).limited(max_bytes).documents) for domain in DOMAINS}


def num_tokens(folder: Path, max_bytes: int) -> dict[str, dict[str, int]]:
    """The number of tokens that a model's tokenizer makes of the documents, by text set and domain."""
    encoder = models.tokenizer_files(folder).fast_tokenizer()
    return {
        text_set: {
            domain: sum(len(encoder.encode(text, add_special_tokens=False).ids) for text in texts)
            for domain, texts in documents(text_set, max_bytes).items()
        }
        for text_set in TEXT_SETS
    }


def run_tokensurgeon(base: Path, target: Path, options: list[str], max_bytes: int) -> dict[str, Any]:
    """Swap with mergekit-tokensurgeon, as a user would, and score; returns its last error line where it fails."""
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


def score(
    folder: Path, max_bytes: int, text_sets: Iterable[str] = TEXT_SETS
) -> dict[str, dict[str, list[tuple[float, int]]]]:
    """Return (bits, bytes) of each document, by text set and domain."""
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
        for text_set in text_sets
    }
