"""Write a model folder with another tokenizer, from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.front_door.loading import SAVE_FIRST, name_of, read_options


def transplant(
    base: str | os.PathLike[str],
    target: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    pad_to_multiple_of: int | None = None,
    force: bool = False,
    device: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
    merge_options: Any = None,
    **options: Any,
) -> Path:
    """Write the model `base` with the tokenizer `target` into the folder `out`, as the command `transplant` does.

    mergekit runs the recipe with a few tensors at a time, so the model need not fit into memory. `out` appears only
    when it is complete.

    Args:
        base: a model folder or hub id.
        target: a folder or hub id with a tokenizer. It needs no weights.
        out: the folder to write.
        dtype: dtype of the output's weights, or None for the model's own.
        pad_to_multiple_of: round the number of new rows up to a multiple of this.
        force: replace `out` where it exists.
        device: device on which rows are computed, such as ``cuda``; None is the CPU.
        trust_remote_code: whether code of hub repositories may run.
        quiet: show no progress bars.
        merge_options: a `mergekit.options.MergeOptions`, instead of `device`, `trust_remote_code` and `quiet`.
        options: keys of the recipe's ``adapt`` block (see `AdaptConfig`), and options of the method.

    Returns:
        The path of `out`.

    Raises:
        TokenAdaptError: `out` may not be written, or a model, a tokenizer or an option is wrong.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> ta.transplant("./model", "./tokenizer", "./out", method="calibrated", untie=True)  # doctest: +SKIP
        PosixPath('out')
    """
    from mergekit_tokenadapt.plugin import activate

    # Only keys that were given: the recipe in the output then says what the user asked for.
    adapt = read_options(options).model_dump(mode="json", exclude_unset=True)
    activate()  # before a recipe is read: stock mergekit ignores the adapt block
    from mergekit_tokenadapt.plugin.merge_options import merge_options as make_options
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    if merge_options is None:
        given = {"trust_remote_code": trust_remote_code, "quiet": quiet}
        merge_options = make_options(**given, **({} if device is None else {"device": device}))
    recipe = make_recipe(
        name_of(base, "base", f"{SAVE_FIRST}; or change it in memory with adapt"),
        name_of(target, "target", SAVE_FIRST),
        adapt,
        dtype=dtype,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return run_recipe(recipe, name_of(out, "out", "name the folder to write"), merge_options, force=force)
