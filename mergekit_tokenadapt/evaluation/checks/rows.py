"""Check the tensors: finite numbers, no zero rows, plausible norms, and padding rows that the model never prefers.

Letters: R rows, D width, T positions, V logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.numerics.row_math import row_norms

NORM_MARGIN = 2.0
"""Factor by which new rows may be shorter or longer than all old rows.

A weighted mean of rows is shorter than these rows. With SmolLM2-135M and DeepSeek's tokenizer, the shortest new row has
0.73 (method mean) or 0.68 (hybrid) of the norm of the shortest old row.
"""

NUM_PADDING_POSITIONS = 2048
"""Number of positions of built-in text at which the logits of padding rows are compared with all others."""


def check_finite(model: ModelFolder) -> Finding:
    """Check that no tensor has NaN or infinite values."""
    problems, count = [], 0
    for name in model.tensors:
        tensor = model.tensors.read(name)
        count += tensor.numel()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            problems.append(f"{name} has {bad:,} values that are not finite")
    return passed_unless(problems, "finite", f"{len(model.tensors.names)} tensors, {count:,} numbers", numbers=count)


def check_zero_rows(model: ModelFolder) -> Finding:
    """Check that no row of a vocabulary matrix is zero. Its logit would be 0, and highest where all others are
    negative.
    """
    problems = []
    for name, matrix in _matrices(model):
        zero = (row_norms(matrix) == 0).nonzero().flatten().tolist()
        if zero:
            problems.append(f"{name} has {len(zero):,} zero rows, the first at id {zero[0]}")
    return passed_unless(problems, "zero rows", "none", matrices=model.matrices)


def check_norms(model: ModelFolder, origins: RowOrigins | None) -> Finding:
    """Check that new rows are about as long as old rows.

    The check fails if a new norm is less than 1/`NORM_MARGIN` of the smallest old norm, or more than `NORM_MARGIN`
    times the largest. New rows outside the range of old norms, but within the margin, are only counted.
    """
    if origins is None:
        return Finding("norms", Status.SKIPPED, "which rows are new is not known: give --base")
    new_ids = torch.from_numpy(origins.new_ids)
    if not len(new_ids):
        return Finding("norms", Status.PASSED, "no new rows")
    problems, words, details = [], [], {}
    for name, matrix in _matrices(model):
        old, new = origins.old_norms(name), row_norms(matrix)[new_ids]
        low, high = float(old.min()), float(old.max())
        outside = int(((new < low) | (new > high)).sum())
        words.append(f"{name}: new {_range(new)}, old {_range(old)}, {outside:,} of {len(new):,} outside")
        details[name] = {"new": [float(new.min()), float(new.max())], "old": [low, high], "outside": outside}
        for ids, what in (
            (new_ids[new * NORM_MARGIN < low], f"less than 1/{NORM_MARGIN:g} of the smallest"),
            (new_ids[new > high * NORM_MARGIN], f"more than {NORM_MARGIN:g} times the largest"),
        ):
            if len(ids):
                problems.append(
                    f"{name}: the norms of {len(ids):,} new rows are {what} old norm ({low:.3g} to {high:.3g}), "
                    f"the first at id {int(ids[0])}"
                )
    return passed_unless(problems, "norms", "; ".join(words), margin=NORM_MARGIN, matrices=details)


def check_padding(model: ModelFolder, *, run: bool) -> Finding:
    """Check that an id without a token is never the most likely one, on built-in prose, code and difficult texts."""
    padding = torch.ones(model.num_rows, dtype=torch.bool)
    padding[[t.id for t in model.tokenizer.vocabulary if t.id < model.num_rows]] = False
    if not bool(padding.any()):
        return Finding("padding", Status.PASSED, "every row has a token")
    if not run:
        return Finding("padding", Status.SKIPPED, f"{int(padding.sum()):,} rows without a token; not run (--no-run)")
    winners_T = _winners(model)
    wins = int(padding[winners_T].sum())
    problems = [f"an id without a token wins at {wins:,} of {len(winners_T):,} positions"] if wins else []
    good = f"{int(padding.sum()):,} rows without a token, none wins at {len(winners_T):,} positions"
    return passed_unless(problems, "padding", good, rows=int(padding.sum()), positions=len(winners_T))


def _winners(model: ModelFolder) -> Tensor:
    """Return the most likely next id at positions of built-in text, int64 [T]."""
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.texts import builtin_text

    network = load_model(model)
    tokenizer = model.tokenizer.fast_tokenizer()
    documents = [d for name in ("hard", "prose", "code") for d in builtin_text(name).documents]
    winners: list[Tensor] = []
    with torch.inference_mode():
        for document in documents:
            ids = tokenizer.encode(document, add_special_tokens=False).ids[:512]
            logits_TV = network(torch.tensor([ids], device=network.device)).logits[0]
            winners.append(logits_TV.argmax(dim=-1).cpu())
            if sum(map(len, winners)) >= NUM_PADDING_POSITIONS:
                break
    return torch.cat(winners)


def _matrices(model: ModelFolder) -> list[tuple[str, Tensor]]:
    return [(name, model.rows(name)) for name in model.matrices]


def _range(norms: Tensor) -> str:
    return f"{float(norms.min()):.2f} to {float(norms.max()):.2f}"
