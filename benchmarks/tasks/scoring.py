"""Score a model on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tasks.cases import TASKS
from examples.samples.models import olmo_requests

SEED = 0
"""Seed of the sample of documents, the same for every model."""


def scored(model: Path, task: str, documents: int, *, start_token: bool = False) -> dict[str, Any]:
    """Score a model on documents of a task: each metric's parts of every document, and seconds.

    Args:
        model: its folder.
        task: a name in `TASKS`.
        documents: the largest number of documents.
        start_token: put the start token before each text, also where the tokenizer puts none there.
    """
    from mergekit_tokenadapt.evaluation.request_files import read_requests
    from mergekit_tokenadapt.evaluation.request_scores import encode_task, metrics_of
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.models.shared_prefix import PrefixScorer

    requests = read_requests(olmo_requests() / TASKS[task].folder).sample(documents, SEED)
    folder = open_model(str(model))
    encoded, num_truncated = encode_task(folder, requests, start_token=start_token)
    scorer = PrefixScorer(load_model(folder, device="cpu", dtype="float32"))
    figures = metrics_of(requests, encoded, scorer.score(encoded))
    return {
        "documents": len(requests.documents),
        "choices": sum(map(len, encoded)),
        "sha256": requests.sha256,
        "metrics": {
            f.metric: {"above": [round(float(v), 4) for v in f.above_N], "below": [float(v) for v in f.below_N]}
            for f in figures
        },
        "seconds": round(scorer.seconds, 1),
        "truncated": num_truncated,
        "boundaries_lost": sum(not c.keeps_boundary for choices in encoded for c in choices),
        "prefixes_not_shared": scorer.why_plain,
    }
