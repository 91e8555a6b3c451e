"""Score the documents of request files with models: accuracy of multiple choice, bits per byte of the right answers.

Letters: S resamples, N documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts
from mergekit_tokenadapt.evaluation.options import TaskOptions
from mergekit_tokenadapt.evaluation.request_files import RequestTask
from mergekit_tokenadapt.models.folder import ModelFolder, context_length
from mergekit_tokenadapt.models.loading import choose_device, choose_dtype, load_model
from mergekit_tokenadapt.models.shared_prefix import PrefixScorer
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.continuations import Continuation, ContinuationEncoder

HARNESS_LENGTH = 2048
"""Context length in tokens of a model whose config states none, as in lm-evaluation-harness."""


@dataclass(frozen=True, eq=False)
class Figures:
    """One metric of one model on one task. It is the sum of `above` divided by the sum of `below`."""

    metric: str
    above_N: np.ndarray
    below_N: np.ndarray


def score_requests(
    folders: Sequence[ModelFolder],
    tasks: Sequence[RequestTask],
    options: TaskOptions | None = None,
    *,
    shares_prefixes: bool = True,
    quiet: bool = True,
) -> dict[str, Any]:
    """Score request files with one model after another.

    The metrics of multiple choice are `acc` (the choice with the highest log probability is the right one), `acc_bytes`
    (the choice with the fewest bits per byte is) and `bits_per_byte`, of the right choice. Gold answers have only
    `bits_per_byte`. Bits and bytes are summed over all documents before they are divided, as `compare` does; olmo-eval
    averages the documents' ratios instead. For the tokens of context and answer see `ContinuationEncoder`.

    A text that is longer than the model's context loses tokens at its beginning.

    Args:
        folders: the models.
        tasks: the tasks. `limit` draws the same documents of them for every model.
        options: see `TaskOptions`.
        shares_prefixes: whether a model reads tokens that the choices of a document share only once. It changes the
            time, not the scores.
        quiet: show no progress.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: two tasks have one name, a model cannot be loaded, its tokenizer has ids without rows, or an
            answer is longer than its context.
    """
    options = options or TaskOptions()
    _check_names(tasks)
    folders = [folder.with_own_rows() for folder in folders]
    tasks = [task.sample(options.limit, options.seed) for task in tasks]
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    generator = np.random.default_rng(options.seed)
    resamples = [resample_counts(len(task.documents), options.resamples, generator) for task in tasks]
    models: list[dict[str, Any]] = []
    base: list[list[Figures]] = []
    for folder in folders:
        encoded = [encode_task(folder, task, start_token=options.start_token) for task in tasks]
        model = load_model(folder, device=str(device), dtype=dtype)
        scorer = PrefixScorer(model, options.batch_size, shares_prefixes)
        figures = []
        for task, (documents, _) in zip(tasks, encoded, strict=True):
            with progress(desc=f"{folder.name}: {task.name}", total=len(documents), quiet=quiet, unit="doc") as bar:
                figures.append(metrics_of(task, documents, scorer.score(documents, bar.update)))
        del model, scorer.model
        base = base or figures
        models.append(
            {
                "name": folder.name,
                "scores": [
                    _report(task.name, ours, theirs, counts_SN)
                    for task, of_task, of_base, counts_SN in zip(tasks, figures, base, resamples, strict=True)
                    for ours, theirs in zip(of_task, of_base, strict=True)
                ],
                "seconds": scorer.seconds,
                "tokens_read": scorer.num_read,
                "prefixes_not_shared": "not asked for" if not shares_prefixes else scorer.why_plain,
                "boundaries_lost": sum(not c.keeps_boundary for documents, _ in encoded for d in documents for c in d),
                "truncated": sum(num_truncated for _, num_truncated in encoded),
            }
        )
    return {
        "command": "tasks",
        "harness": None,
        "settings": {
            "tasks": [task.name for task in tasks],
            "limit": options.limit,
            "seed": options.seed,
            "resamples": options.resamples,
            "start_token": options.start_token,
            "device": str(device),
            "dtype": str(dtype).removeprefix("torch."),
        },
        "requests": [task.summary() for task in tasks],
        "models": models,
    }


def _check_names(tasks: Sequence[RequestTask]) -> None:
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TokenAdaptError(f"--requests: two files give a task the name {twice[0]!r}: rename one of them")


def encode_task(
    folder: ModelFolder, task: RequestTask, *, start_token: bool = False
) -> tuple[list[list[Continuation]], int]:
    """Tokenize the choices of each document.

    Args:
        folder: the model.
        task: the documents.
        start_token: see `TaskOptions`.

    Returns:
        The continuations of each document, and how many of them lost tokens at the beginning.

    Raises:
        TokenAdaptError: an answer alone is longer than the model's context, or there is no start token.
    """
    encoder = ContinuationEncoder(folder.tokenizer, start_token)
    longest = context_length(folder) or HARNESS_LENGTH
    documents, num_truncated = [], 0
    for document in task.documents:
        choices = []
        for context, continuation in zip(document.contexts, document.continuations, strict=True):
            found = encoder.encode(context, continuation)
            surplus = len(found.ids) - 1 - longest  # the last token is only predicted
            if surplus >= found.first:
                raise TokenAdaptError(
                    f"{folder.name}: an answer of {task.name} has {len(found.ids) - found.first} tokens, and the model "
                    f"reads {longest}"
                )
            if surplus > 0:
                found = found._replace(ids=found.ids[surplus:], first=found.first - surplus)
                num_truncated += 1
            choices.append(found)
        documents.append(choices)
    return documents, num_truncated


def metrics_of(
    task: RequestTask, documents: Sequence[Sequence[Continuation]], losses: Sequence[np.ndarray]
) -> list[Figures]:
    """Compute the metrics of a task from the losses of all choices.

    Args:
        task: the task.
        documents: the continuations of each document.
        losses: their losses in nats for each document, see `PrefixScorer.score`.
    """
    gold_N = [d.gold for d in task.documents]
    bytes_N = [np.array([c.num_bytes for c in choices]) for choices in documents]
    bits_of_gold_N = np.array([loss[gold] / math.log(2) for loss, gold in zip(losses, gold_N, strict=True)])
    bytes_of_gold_N = np.array([sizes[gold] for sizes, gold in zip(bytes_N, gold_N, strict=True)], dtype=np.float64)
    figures = [Figures("bits_per_byte", bits_of_gold_N, bytes_of_gold_N)]
    if task.kind == "multiple choice":
        right_N = np.array([loss.argmin() == gold for loss, gold in zip(losses, gold_N, strict=True)], dtype=float)
        right_by_bytes_N = np.array(
            [(loss / size).argmin() == gold for loss, size, gold in zip(losses, bytes_N, gold_N, strict=True)],
            dtype=float,
        )
        one_N = np.ones(len(gold_N))
        figures = [Figures("acc", right_N, one_N), Figures("acc_bytes", right_by_bytes_N, one_N), *figures]
    return figures


def _report(task: str, ours: Figures, base: Figures, counts_SN: np.ndarray) -> dict[str, Any]:
    """Return one metric with its interval, and its difference to the first model's on the same resamples."""
    value, value_base = (float(f.above_N.sum() / f.below_N.sum()) for f in (ours, base))
    report = {
        "task": task,
        "metric": ours.metric,
        "value": value,
        "standard_error": None,
        "interval": None,
        "difference": value - value_base,
        "difference_interval": None,
    }
    if len(ours.above_N) < 2:  # a single document has no spread
        return report
    values_S, base_S = ((counts_SN @ f.above_N) / (counts_SN @ f.below_N) for f in (ours, base))
    return report | {"interval": interval(values_S), "difference_interval": interval(values_S - base_S)}
