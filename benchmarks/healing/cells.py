"""What is measured: the starts of healing, its recipes, and the measurement of one cell."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.common import models, texts
from benchmarks.common.gaps import Scores
from benchmarks.quality.cases import PAIRS as QUALITY_PAIRS

PAIRS = QUALITY_PAIRS | {"smollm2-tekken": ("smollm2", "tekken")}
"""Name to base model and target tokenizer."""
KINDS = {"prose": "English", "code": "code", "arithmetic": "sums", "de": "German", "zh": "Chinese"}
"""Built-in texts, by the kinds of the text to heal with."""
BYTES = 1500
"""Of each built-in text that is scored, at least: whole documents."""
PROBE_BYTES = 200
"""Of each of the 18 built-in texts that tell what got worse."""
NO_LIMIT = 600.0
"""Minutes for a run whose steps are given."""
SHARES = (0.5, 0.75)
"""How far the weights lie on the way to the trained ones, beside all the way: see `heal --interpolate`."""
INTERPOLATE = 1.0
"""The share of the change that the models of this benchmark keep: all of it."""
RECORDED = ("steps", "tokens", "passages", "trained_rows", "held_out", "probes", "worse", "curve", "is_better")
"""What a result keeps of the record of `heal`."""
STARTS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "hybrid": {"method": "hybrid"},
    "calibrated": {"method": "calibrated"},
    "calibrated, untied": {"method": "calibrated", "untie": True},
}
"""Rows that healing starts from."""
TAUGHT = "the base model reads all passages"
_ALL_TAUGHT: dict[str, dict[str, Any]] = {
    TAUGHT: {},
    "slower": {"rate": 1.5e-3, "row_rate": 4e-3},
    "six times the rate": {"rate": 0.029, "row_rate": 0.027},
    "rows": {"train": "rows"},
    "all": {"train": "all", "rate": 1e-3},
    "no copies": {"copies": 0.0},
    "no share for the text": {"text_share": 0.0},
    "eight passages in a step": {"passages_per_step": 8},
    "rank 16": {"rank": 16},
    "250 passages that the base model writes": {"own_passages": 250},
    texts.SEVERAL_LANGUAGES: {},
    texts.TWICE: {},
}
"""Recipes that were measured when `heal` had no plain passages. Two without options have other text: see `text_of`."""
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "next-token": {"objective": "next_token"},
    "chunks": {"objective": "chunks"},
    **{name: {"plain_share": 0.0, **options} for name, options in _ALL_TAUGHT.items()},
}
"""Options of `heal`, beside the time."""


def unhealed(pair: str, start: str) -> dict[str, Scores]:
    """The scores of the base model, or of a model after the swap."""
    return scores(_base(pair) if start == "base" else swapped(pair, start))


def swapped(pair: str, start: str) -> Path:
    """The swapped model. It keeps its place: a healing that was killed goes on from its checkpoint."""
    folder = models.KEPT / f"healing-{pair}-{start.replace(', ', '-')}"
    if not folder.is_dir():
        models.transplanted(_base(pair), models.fetched(PAIRS[pair][1]), folder, STARTS[start])
    return folder


def _base(pair: str) -> Path:
    return models.fetched(PAIRS[pair][0])


def healed(pair: str, start: str, recipe: str, amount: str) -> dict[str, Any]:
    """Heal for so many minutes ("15 minutes") or steps ("40 steps"), and score what comes out."""
    from mergekit_tokenadapt.healing.options import HealOptions
    from mergekit_tokenadapt.healing.run import heal
    from mergekit_tokenadapt.texts import read_text

    number, unit = amount.split()
    time_or_steps = {"minutes": float(number)} if unit == "minutes" else {"minutes": NO_LIMIT, "steps": int(number)}
    options = HealOptions(
        held_out_bytes=3000,
        probe_bytes=PROBE_BYTES,
        looks=6,
        interpolate=INTERPOLATE,
        **time_or_steps,
        **RECIPES[recipe],
    )
    sets = [read_text(f"{file.stem}={file}") for file in text_of(recipe)]
    with tempfile.TemporaryDirectory(dir=models.KEPT) as temporary:
        began, cpu = time.perf_counter(), time.process_time()
        done = heal(
            str(swapped(pair, start)),
            str(Path(temporary, "out")),
            sets,
            options,
            base=str(_base(pair)),
            quiet=True,
            say=lambda line: click.echo(line, err=True),
        )
        seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        found = scores(done.folder)
        place = kept(pair, start, recipe, amount)
        shutil.rmtree(place, ignore_errors=True)
        done.folder.rename(place)
    return {
        "scores": found,
        "seconds": seconds,
        "curve_seconds": list(done.curve_seconds),
        **{name: done.record[name] for name in RECORDED},
    }


def text_of(recipe: str) -> list[Path]:
    """The files to heal with, one for each kind of text."""
    return sorted(texts.mixed(recipe if recipe in texts.FOLDERS else "").iterdir())


def interpolated(pair: str, start: str, recipe: str, amount: str, share: float) -> dict[str, Any]:
    """Score weights between those before and after a healing that was measured."""
    import torch

    from mergekit_tokenadapt.healing.judging import bits_per_byte, probes, worse

    model, trained = (models.in_float32(f) for f in (swapped(pair, start), kept(pair, start, recipe, amount)))
    tokenizer, texts = models.tokenizer_files(swapped(pair, start)), probes(PROBE_BYTES)
    before = bits_per_byte(model, tokenizer, texts)
    whole = trained.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.lerp_(whole[name], share)
    after = bits_per_byte(model, tokenizer, texts)
    return {
        "scores": scores_of(model, tokenizer),
        "probes": {"before": before, "after": after},
        "worse": worse(after, before),
    }


def kept(pair: str, start: str, recipe: str, amount: str) -> Path:
    """Where the healed model of a cell stays."""
    return models.KEPT / f"healed-{pair}-{start}-{recipe}-{amount}".replace(", ", "-").replace(" ", "-")


def scores(folder: Path) -> dict[str, Scores]:
    """Bits and bytes of each document of the built-in texts, which are of other sources."""
    return scores_of(models.in_float32(folder), models.tokenizer_files(folder))


def scores_of(model: Any, tokenizer: Any) -> dict[str, Scores]:
    """The same, for a model of transformers."""
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.losses import Scorer
    from mergekit_tokenadapt.texts import builtin_text

    scorer = Scorer(model)
    found: dict[str, Scores] = {}
    for name in KINDS:
        documents = builtin_text(name).limited(BYTES).documents
        found[name] = [(d.bits, d.num_bytes) for d in score_documents(scorer, tokenizer, documents)]
    return found
