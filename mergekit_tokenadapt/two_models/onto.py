"""Put a model onto the vocabulary of another: the same ids, the same number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.same_vocabulary import check_same_vocabulary
from mergekit_tokenadapt.plugin.merge_options import MergeOptions, merge_options
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe


def put_onto(
    model: str,
    target: str,
    out: str,
    adapt: Mapping[str, Any],
    *,
    rows: int | None = None,
    dtype: str | None = None,
    options: MergeOptions | None = None,
    force: bool = False,
    finish: Callable[[ModelFolder, ModelFolder], None] | None = None,
) -> Path:
    """Make `out`: `model` with the tokenizer of the model `target`, and with as many rows.

    Rows without a token are the mean of the others: their logit is the mean of the logits, so they
    never win.

    Args:
        model: folder or hub id.
        target: folder or hub id of a model, not only of a tokenizer: its weights say how many rows it has.
        out: appears when it is complete.
        adapt: the ``adapt`` block; `rows` and `save_plan` are set here.
        rows: rows of the output where they are to be others than the target's.
        dtype: of the output; None for that of `model`.
        options: of mergekit.
        force: replace `out` where it exists.
        finish: gets (the target, the output before it is renamed), and may write into the output.

    Raises:
        TokenAdaptError: a folder is no model, or has too few rows for its tokenizer, or `out` exists.
    """
    options = options or merge_options(quiet=True)
    target_folder = open_model(target, trust_remote_code=options.trust_remote_code).with_own_rows()
    adapt = {**adapt, "rows": rows or target_folder.num_rows, "save_plan": True}

    def check_and_finish(staged: Path) -> None:
        made = open_model(str(staged), trust_remote_code=options.trust_remote_code)
        made = made.with_own_rows(tell=False)
        check_same_vocabulary(target_folder, made)
        if finish is not None:
            finish(target_folder, made)

    # From where the target was found: a hub id is not fetched a second time.
    recipe = make_recipe(model, str(target_folder.folder), adapt, dtype=dtype)
    return run_recipe(recipe, out, options, force=force, finish=check_and_finish)
