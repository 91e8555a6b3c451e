"""Healing a model folder, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mergekit_tokenadapt.front_door.loading import SAVE_FIRST, name_of
from mergekit_tokenadapt.healing.run import Healed

__all__ = ["Healed", "heal"]


def heal(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    texts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    base: str | os.PathLike[str] | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Healed:
    """Train a transplanted model for some minutes to predict what its base predicts, as the command `heal` does.

    Args:
        model: the folder of a transplanted model.
        out: the folder to be made. It holds the weights that are best on held-out passages, or those of `model` where
            none are better.
        texts: a file, a folder or jsonl, or several, as the command's ``--text`` takes them (``[NAME=]PATH``). Without
            any, the source of Python's own library, and sums.
        base: the model that `model` was made from; None: the one that its manifest names.
        force: replace `out` where it exists.
        trust_remote_code: whether the models' own code may run.
        quiet: no progress.
        options: the fields of `healing.HealOptions`: minutes, steps, train, rate, row_rate, ...

    Raises:
        TokenAdaptError: an option, a model or a text is wrong, or a package is missing.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> ta.heal("./out", "./out-healed", texts=["./notes"], minutes=15).folder  # doctest: +SKIP
        PosixPath('out-healed')
    """
    from mergekit_tokenadapt.healing import run
    from mergekit_tokenadapt.healing.options import HealOptions
    from mergekit_tokenadapt.healing.passages import read_healing_texts

    chosen = HealOptions(**options)
    return run.heal(
        name_of(model, "model", SAVE_FIRST),
        name_of(out, "out", "name the folder to write"),
        read_healing_texts([texts] if isinstance(texts, str | os.PathLike) else texts),
        chosen,
        base=None if base is None else name_of(base, "base", SAVE_FIRST),
        force=force,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
