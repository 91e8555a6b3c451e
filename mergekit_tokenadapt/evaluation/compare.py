"""Compare models on the same texts, in units that do not depend on the tokenizer.

All ratios and differences are relative to the first model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts
from mergekit_tokenadapt.evaluation.excess import loss_shares, top_excess
from mergekit_tokenadapt.evaluation.lost_text import LostText, lost_text, sentence
from mergekit_tokenadapt.evaluation.options import CompareOptions
from mergekit_tokenadapt.evaluation.origins import find_origins
from mergekit_tokenadapt.evaluation.row_views import view_rows
from mergekit_tokenadapt.models.documents import ScoredDocument, score_documents
from mergekit_tokenadapt.models.folder import ModelFolder, context_length
from mergekit_tokenadapt.models.loading import choose_device, choose_dtype, load_model
from mergekit_tokenadapt.models.losses import WINDOW, Scorer, check_stride, stride_for
from mergekit_tokenadapt.texts import TextSet, check_names
from mergekit_tokenadapt.tokenizer.encoded_text import start_token

PERPLEXITY_NOTE = (
    "Perplexity ratios are per token, as the TokenAdapt paper reports them (arXiv 2505.09738); "
    "they do not compare across tokenizers. Bits per byte do."
)


@dataclass(frozen=True, eq=False)
class ModelScores:
    """Scores of one model on all documents of all texts."""

    folder: ModelFolder
    domains: Mapping[str, list[ScoredDocument]]
    """Name of the text -> its scored documents."""
    lost: Mapping[str, LostText | None]
    """Name of the text -> what its tokens do not preserve; None if they preserve everything."""
    seconds: float
    """Time that scoring took."""
    num_scored: int
    """Number of tokens that were scored."""


def compare(
    folders: Sequence[ModelFolder],
    texts: Sequence[TextSet],
    options: CompareOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Score every text with every model. Only one model is in memory at a time.

    Args:
        folders: the models, the base first.
        texts: texts with different names.
        options: see `CompareOptions`.
        progress: is called with a line for each step.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: a model cannot be loaded, or its tokenizer has ids without rows.
    """
    options = options or CompareOptions()
    check_names([text.name for text in texts])
    folders = [folder.with_own_rows() for folder in folders]
    window = options.window or min([WINDOW, *[n for f in folders if (n := context_length(f)) is not None]])
    stride = options.stride or stride_for(window)
    check_stride(window, stride)
    scores = [_score(folder, texts, options, window=window, stride=stride, progress=progress) for folder in folders]
    progress("bootstrap")
    reports = _model_reports(scores, options)
    return {
        "command": "compare",
        "base": folders[0].name,
        "settings": _settings(options, window=window, stride=stride),
        "perplexity_note": PERPLEXITY_NOTE,
        "texts": [text.describe() for text in texts],
        "models": reports,
        "best": {name: _best(reports, name) for name in ("all", *(text.name for text in texts))},
    }


def _score(
    folder: ModelFolder,
    texts: Sequence[TextSet],
    options: CompareOptions,
    *,
    window: int,
    stride: int,
    progress: Callable[[str], None],
) -> ModelScores:
    """Score every text with one model. The model is freed on return, before the next one is loaded."""
    progress(f"loading {folder.name}")
    model = load_model(folder, device=options.device, dtype=options.dtype)
    scorer = Scorer(model, window, stride, options.batch_size)
    domains, lost = {}, {}
    for text in texts:
        progress(f"{folder.name}: {text.name}, {text.num_bytes:,} bytes")
        scored = domains[text.name] = score_documents(scorer, folder.tokenizer, text.documents)
        lost[text.name] = lost_text(folder.tokenizer, text.documents, [d.ids.tolist() for d in scored])
    return ModelScores(folder, domains, lost, scorer.seconds, scorer.num_scored)


def _settings(options: CompareOptions, *, window: int, stride: int) -> dict[str, Any]:
    """Return the settings of a comparison as its report states them."""
    device = choose_device(options.device)
    return {
        "window": window,
        "stride": stride,
        "device": str(device),
        "dtype": str(choose_dtype(options.dtype, device)).removeprefix("torch."),
        "resamples": options.resamples,
        "seed": options.seed,
    }


def _best(reports: Sequence[dict[str, Any]], text: str) -> str | None:
    """Return the model with the fewest bits per byte of a text, among those whose tokens preserve it."""
    sound = [(r["all"] if text == "all" else r["domains"][text], r["name"]) for r in reports]
    return min(((d["bits_per_byte"], name) for d, name in sound if not d["loses_text"]), default=(0, None))[1]


def _model_reports(scores: Sequence[ModelScores], options: CompareOptions) -> list[dict[str, Any]]:
    base = scores[0]
    generator = np.random.default_rng(options.seed)
    counts = {  # shared by all models: the bootstrap is paired
        name: resample_counts(len(documents), options.resamples, generator) for name, documents in base.domains.items()
    }
    reports = []
    for score in scores:
        lost = {name: one.describe() if one else None for name, one in score.lost.items()}
        domains = {
            name: {
                **domain_report(documents, base.domains[name], counts[name]),
                "loses_text": lost[name] is not None,
                "lost_text": lost[name],
            }
            for name, documents in score.domains.items()
        }
        num_bytes = sum(d.num_bytes for ds in score.domains.values() for d in ds)
        report = {
            "name": score.folder.name,
            "tokens": len(score.folder.tokenizer.vocabulary),
            "start_token": _start_label(score.folder),
            "tokens_per_second": score.num_scored / score.seconds if score.seconds else 0.0,
            "bytes_per_second": num_bytes / score.seconds if score.seconds else 0.0,
            "seconds": score.seconds,
            "all": {**_pooled_report(score, base, counts), "loses_text": any(lost.values())},
            "lost_text": sentence(lost),
            "domains": domains,
        }
        reports.append(report | (_origin_report(score, base, options) if score is not base else {}))
    return reports


def domain_report(
    documents: Sequence[ScoredDocument], base: Sequence[ScoredDocument], counts_SN: np.ndarray
) -> dict[str, Any]:
    """Describe one model on one text: quality, confidence intervals, and the difference to the base.

    Intervals are None for a single document, which cannot be resampled.

    Args:
        documents: the model's documents.
        base: the same documents, scored by the base model.
        counts_SN: how often each resample contains each document, see `resample_counts`.
    """
    bits_N, base_bits_N = _bits(documents), _bits(base)
    bytes_N = _num_bytes(documents)
    report = _summary(documents, base)
    if len(documents) < 2:
        return report | {"interval": None, "difference_interval": None}
    total_S = counts_SN @ bytes_N
    return report | {
        "interval": interval(counts_SN @ bits_N / total_S),
        "difference_interval": interval(counts_SN @ (bits_N - base_bits_N) / total_S),
    }


def _pooled_report(score: ModelScores, base: ModelScores, counts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Describe one model on all texts together. Documents are resampled within their text."""
    flat = [d for documents in score.domains.values() for d in documents]
    flat_base = [d for documents in base.domains.values() for d in documents]
    bits_S, difference_S, bytes_S = 0.0, 0.0, 0.0
    for name, documents in score.domains.items():
        bits_S = bits_S + counts[name] @ _bits(documents)
        difference_S = difference_S + counts[name] @ (_bits(documents) - _bits(base.domains[name]))
        bytes_S = bytes_S + counts[name] @ _num_bytes(documents)
    report = _summary(flat, flat_base)
    if len(flat) == len(score.domains):  # every text has one document, so all resamples are the same
        return report | {"interval": None, "difference_interval": None}
    return report | {
        "interval": interval(np.asarray(bits_S / bytes_S)),
        "difference_interval": interval(np.asarray(difference_S / bytes_S)),
    }


def _summary(documents: Sequence[ScoredDocument], base: Sequence[ScoredDocument]) -> dict[str, Any]:
    num_bytes = int(_num_bytes(documents).sum())
    num_tokens = sum(len(d.ids) for d in documents)
    num_characters = sum(len(d.text) for d in documents)
    bits_per_byte = float(_bits(documents).sum()) / num_bytes
    mean_loss, base_loss = _mean_loss(documents), _mean_loss(base)
    return {
        "documents": len(documents),
        "bytes": num_bytes,
        "tokens": num_tokens,
        "bits_per_byte": bits_per_byte,
        "difference": bits_per_byte - float(_bits(base).sum()) / num_bytes,
        "token_perplexity": math.exp(mean_loss),
        "token_perplexity_ratio": math.exp(mean_loss - base_loss),
        "tokens_per_byte": num_tokens / num_bytes,
        "characters_per_token": num_characters / num_tokens,
    }


def _bits(documents: Sequence[ScoredDocument]) -> np.ndarray:
    return np.array([d.bits for d in documents])


def _num_bytes(documents: Sequence[ScoredDocument]) -> np.ndarray:
    return np.array([d.num_bytes for d in documents], dtype=np.float64)


def _mean_loss(documents: Sequence[ScoredDocument]) -> float:
    return float(sum(d.losses.sum() for d in documents)) / sum(len(d.ids) for d in documents)


def _start_label(folder: ModelFolder) -> str | None:
    vocabulary = folder.tokenizer.vocabulary
    start = start_token(vocabulary)
    return None if start is None else vocabulary.by_id[start].spelling


def _origin_report(score: ModelScores, base: ModelScores, options: CompareOptions) -> dict[str, Any]:
    """Describe how the loss is distributed over new, copied and following tokens, and which tokens have most of it."""
    origins = find_origins(score.folder, base.folder)
    assert origins is not None  # it is None only without a base
    pairs = [
        (ours, theirs)
        for name, documents in score.domains.items()
        for ours, theirs in zip(documents, base.domains[name], strict=True)
    ]
    report: dict[str, Any] = {
        "rows_by_reason": origins.mapping.counts(),
        "loss_shares": loss_shares(pairs, origins),
        "top_excess": top_excess(pairs, origins, options.top),
        "origin_note": origins.note,
    }
    has_two_main_axes = len(origins.copied_ids) > 2
    if options.rows and not score.folder.is_ensemble and has_two_main_axes:
        report["row_view"] = view_rows(origins, options.seed)
    return report
