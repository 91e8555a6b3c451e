"""Give a model the vocabulary of another model: the same ids and the same number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
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
    heal: Callable[[Path], None] | None = None,
) -> Path:
    """Write `out`: `model` with the tokenizer of the model `target`, and with as many rows.

    Rows without a token become the mean of the other rows. Their logit is then the mean of the other logits, so that
    greedy decoding never chooses them.

    Args:
        model: folder or hub id of the model.
        target: folder or hub id of the other model. A tokenizer alone does not do, because the weights tell the number
            of rows.
        out: the folder to write. It appears only when it is complete.
        adapt: the ``adapt`` block of a recipe; this function sets `rows`, `save_plan` and `start_token`.
        rows: number of rows of the output, or None for the target's.
        dtype: dtype of the output, or None for the model's.
        options: options of mergekit.
        force: replace `out` where it exists.
        finish: is called with the target and the output before `out` is renamed into place, and may write into the
            output.
        heal: is called last with the folder of the output, and may change its weights.

    Raises:
        TokenAdaptError: a folder is not a model, a model has too few rows for its tokenizer, `out` exists, or `adapt`
            has ``start_token: base``.
    """
    options = options or merge_options(quiet=True)
    target_folder = open_model(target, trust_remote_code=options.trust_remote_code).with_own_rows()
    if adapt.get("start_token", "target") != "target":
        raise TokenAdaptError(
            "start_token: base: programs encode the text for both models with the other model's tokenizer, so "
            f"{target} sets what is before each text"
        )
    adapt = {**adapt, "rows": rows or target_folder.num_rows, "save_plan": True, "start_token": "target"}

    def check_and_finish(staged: Path) -> None:
        made = open_model(str(staged), trust_remote_code=options.trust_remote_code)
        made = made.with_own_rows(tell=False)  # the same warning came with the target already
        check_same_vocabulary(target_folder, made)
        if finish is not None:
            finish(target_folder, made)
        if heal is not None:
            heal(staged)

    # The recipe names the folder that `open_model` found, so that a hub id is not downloaded a second time.
    recipe = make_recipe(model, str(target_folder.folder), adapt, dtype=dtype)
    return run_recipe(recipe, out, options, force=force, finish=check_and_finish)
