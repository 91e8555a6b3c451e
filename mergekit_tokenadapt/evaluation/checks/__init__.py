"""Check whether a model folder is sound. Each check is one function and returns one finding."""

from __future__ import annotations

from mergekit_tokenadapt.evaluation.checks.configs import check_config_ids, check_length
from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status
from mergekit_tokenadapt.evaluation.checks.rows import check_finite, check_norms, check_padding, check_zero_rows
from mergekit_tokenadapt.evaluation.checks.sizes import check_sizes, check_special_ids, check_tied
from mergekit_tokenadapt.evaluation.checks.tokens import (
    check_chat_template,
    check_round_trip,
    check_start_token,
    check_transformers_agrees,
    check_unreachable,
)
from mergekit_tokenadapt.evaluation.checks.untouched import check_untouched
from mergekit_tokenadapt.evaluation.origins import find_origins
from mergekit_tokenadapt.models.folder import ModelFolder

__all__ = ["Finding", "Status", "run_checks"]


def run_checks(model: ModelFolder, base: ModelFolder | None = None, *, run: bool = True) -> list[Finding]:
    """Run all checks on a model folder, the fast ones first.

    Args:
        model: any causal language model.
        base: the model that it was made from. Without it, some checks are skipped.
        run: whether to load the model for checks of its predictions.

    Raises:
        TokenAdaptError: a file cannot be read, or the folder has no causal language model.
    """
    origins = find_origins(model, base)
    return [
        check_sizes(model, base),
        check_special_ids(model),
        check_config_ids(model, origins),
        check_tied(model),
        check_chat_template(model, base),
        check_start_token(model, base),
        check_length(model, base),
        check_transformers_agrees(model),
        check_round_trip(model.tokenizer),
        check_unreachable(model.tokenizer),
        check_finite(model),
        check_zero_rows(model),
        check_norms(model, origins),
        check_untouched(model, origins),
        check_padding(model, run=run),
    ]
