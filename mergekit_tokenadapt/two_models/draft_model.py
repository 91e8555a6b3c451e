"""Make a draft model for speculative decoding: a small model with the exact vocabulary of a large one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.output import write_json
from mergekit_tokenadapt.output.change_report import vocabulary_report
from mergekit_tokenadapt.plugin.merge_options import MergeOptions
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.two_models.onto import put_onto

REPORT = "draft.json"
"""File with the report in the output folder."""
LLAMA_CPP_MAX_DIFFERENCE = 128
"""Largest difference of vocabulary sizes: SPEC_VOCAB_MAX_SIZE_DIFFERENCE in llama.cpp's common/speculative.cpp."""


def make_draft(
    target: str,
    small: str,
    out: str,
    adapt: Mapping[str, Any],
    *,
    rows: int | None = None,
    dtype: str | None = None,
    options: MergeOptions | None = None,
    force: bool = False,
    heal: Callable[[Path], None] | None = None,
) -> Path:
    """Write `out`: the small model with the target's exact ids, and with the target's number of rows unless `rows` is
    given.

    Args:
        target: folder or hub id of the large model.
        small: folder or hub id of the small model.
        out: the folder to write.
        adapt: the ``adapt`` block of a recipe.
        rows: number of rows of the output, or None for the target's.
        dtype: dtype of the output, or None for the small model's.
        options: options of mergekit.
        force: replace `out` where it exists.
        heal: see `put_onto`.

    Raises:
        TokenAdaptError: see `put_onto`.
    """
    before = load_tokenizer(small)

    def finish(target_folder: ModelFolder, made: ModelFolder) -> None:
        report = {"target": target, "small": small, **vocabulary_report(target_folder, made, before)}
        write_json(made.folder / REPORT, {**report, "accepted_by": accepted_by(target_folder, made)})

    return put_onto(
        small, target, out, adapt, rows=rows, dtype=dtype, options=options, force=force, finish=finish, heal=heal
    )


def accepted_by(target: ModelFolder, draft: ModelFolder) -> dict[str, str]:
    """Tell which engines accept the pair of models for speculative decoding.

    - transformers (assisted generation without `assistant_tokenizer`) requires the same `vocab_size`.
    - vLLM (method ``draft_model``) requires the same `vocab_size` in both configs.
    - llama.cpp (after both folders are converted) requires the same bos and eos, sizes that differ by at most 128, and
      the same text for every id from 5 on.

    Returns:
        Engine -> ``yes``, or the reason why it refuses the pair.

    Raises:
        TokenAdaptError: bos or eos differ, so that no engine could use the pair.
    """
    sizes = [int(folder.text_config.get("vocab_size") or folder.num_rows) for folder in (target, draft)]
    differ = f"vocab_size is {sizes[1]:,} and not {sizes[0]:,}"
    same = "yes" if sizes[0] == sizes[1] else differ
    apart = abs(sizes[0] - sizes[1])
    roles = [{r: folder.tokenizer.vocabulary.roles.get(r) for r in ("bos", "eos")} for folder in (target, draft)]
    if roles[0] != roles[1]:
        raise TokenAdaptError(f"{draft.name}: bos and eos are {roles[1]}, but those of {target.name} are {roles[0]}")
    # `check_same_vocabulary` has compared the tokens of all ids before.
    llama = "yes" if apart <= LLAMA_CPP_MAX_DIFFERENCE else f"{differ}: more than {LLAMA_CPP_MAX_DIFFERENCE} apart"
    return {"transformers": same, "vllm": same, "llama.cpp": llama}
