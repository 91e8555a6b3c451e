"""The processes that train one model together, as ``accelerate launch`` or ``torchrun`` starts them. Usually one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing

T = TypeVar("T")

OTHER_ENGINES = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""Variables by which ``accelerate launch`` asks for engines that divide a model, and their names."""
SLACK = timedelta(hours=1)
"""Time beyond the minutes of healing for which a process waits for the first one."""


def launched() -> int:
    """Return the number of processes that the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, eq=False)
class Processes:
    """All processes of a run. The first one reads, measures and writes; all of them train."""

    state: Any = None
    """accelerate's `PartialState`; None for a single process."""

    @classmethod
    def of_run(cls, minutes: float, device: str | None) -> Processes:
        """Find the other processes of this run, by the variables that the launcher has set.

        Args:
            minutes: of healing: for so long and longer, processes wait for the first.
            device: that the user names; None: the best there is.

        Raises:
            TokenAdaptError: the launcher asks for an engine that divides the model.
        """
        if launched() < 2:
            return cls()
        for variable, engine in OTHER_ENGINES.items():
            if os.environ.get(variable, "false").lower() == "true":
                raise TokenAdaptError(
                    f"heal cannot use {engine}: each process holds the whole model. Launch it without {engine}"
                )
        with importing("accelerate", extra="heal", wanted_by="several processes"):
            from accelerate import PartialState
        found = cls(PartialState(cpu=device == "cpu", timeout=timedelta(minutes=minutes) + SLACK))
        if not found.is_first:
            logging.getLogger("mergekit_tokenadapt").setLevel(logging.ERROR)  # the first one warns
        return found

    @property
    def number(self) -> int:
        """Of processes."""
        return 1 if self.state is None else int(self.state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this is the first one."""
        return self.state is None or bool(self.state.is_main_process)

    @property
    def device(self) -> torch.device | None:
        """The device of this process among several; None for a single one, which chooses."""
        return None if self.state is None else self.state.device

    def agreed(self, make: Callable[[], T]) -> T:
        """Return in every process what `make` returns in the first, where alone it is called.

        Raises:
            TokenAdaptError: `make` raised it. The first process tells the user, and the others end without a word.
        """
        if self.state is None:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[Any] = [None, None]
        if self.is_first:
            try:
                made[0] = make()
            except TokenAdaptError as error:
                made[1] = error
        value, failure = broadcast_object_list(made)
        if failure is not None and self.is_first:
            raise failure
        if failure is not None:
            raise SystemExit(failure.exit_code)
        agreed: T = value
        return agreed

    def all_hold(self, condition: bool) -> bool:
        """Return whether a condition holds in every process."""
        if self.state is None:
            return condition
        from accelerate.utils import gather_object

        return all(gather_object([condition]))

    def all_same(self, make: Callable[[], T]) -> bool:
        """Return whether `make` returns the same in every process; it is not called for a single one."""
        if self.state is None:
            return True
        made = make()
        return self.all_hold(made == self.agreed(lambda: made))

    def first_then_others(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process, and then in the others, which find its results on disk.

        Raises:
            TokenAdaptError: see `agreed`.
        """
        own: list[T] = []
        self.agreed(lambda: own.append(make()))
        return own[0] if own else make()
