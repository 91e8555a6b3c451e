"""A larger learning rate for the rows of new tokens alone, which `heal` does not have: what would it gain?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@contextmanager
def faster_new_rows(factor: float, is_new: torch.Tensor) -> Iterator[None]:
    """While this is open, each step of training moves the rows of new tokens so many times as far.

    Args:
        factor: see above.
        is_new: bool [V]: the tokens that the base model does not have.
    """
    from mergekit_tokenadapt.healing import collator, run

    trained: list[torch.Tensor] = []
    before: list[torch.Tensor] = []

    def rows_to_train(*arguments: Any) -> torch.Tensor:
        trained[:] = [collator.rows_to_train(*arguments)]
        return trained[0]

    def rows(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """The trained rows of the matrices: the optimizer's groups of one parameter with a row for each trained one."""
        groups = [group["params"] for group in optimizer.param_groups]
        return [one[0] for one in groups if len(one) == 1 and len(one[0]) == len(trained[0])]

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        before[:] = [matrix[is_new[trained[0]]].detach().clone() for matrix in rows(optimizer)]

    @torch.no_grad()
    def go_on(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        new = is_new[trained[0]]
        for matrix, then in zip(rows(optimizer), before, strict=True):
            matrix[new] = then + factor * (matrix[new] - then)

    hooks = [register_optimizer_step_pre_hook(note), register_optimizer_step_post_hook(go_on)]
    try:
        with patch.object(run, "rows_to_train", rows_to_train):
            yield
    finally:
        for hook in hooks:
            hook.remove()
