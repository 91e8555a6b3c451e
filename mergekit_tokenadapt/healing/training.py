"""The training loop's frame: how many steps the time allows, going on after a stop, the best checkpoint at the end."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.healing.collator import Collator
from mergekit_tokenadapt.healing.model import HealingModel
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.processes import Processes
from mergekit_tokenadapt.healing.targets import WANTED_BY, Passage
from mergekit_tokenadapt.output import write_json
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.files import read_json

LOG = logging.getLogger(__name__)

TOGETHER = 8
"""Passages in memory at a time on a GPU, at most. On a CPU it is one: nothing is padded, and memory is small."""
MOST_PASSES = 4
"""Times that a passage is trained on, at most, where time is left."""
LOOKING_SHARE = 0.2
"""The share of the time of training that measurements may take, of which there is at least one."""
SAFETY = 1.1
"""Steps are taken to last so much longer than the one that was timed."""
PLAN = "plan.json"
"""What an interrupted run had settled: the number of steps."""
CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"
"""The last file that Trainer writes of a checkpoint."""


@dataclass
class Training:
    """A model and the passages to train it on."""

    healing: HealingModel
    collator: Collator
    passages: Sequence[Passage]
    options: HealOptions
    place: torch.device
    fast: bool
    """Compute in bfloat16 (autocast)."""
    quiet: bool
    processes: Processes

    def affordable(self, deadline: float, look_seconds: float, kept: Path | None) -> tuple[int, int]:
        """How many steps and measurements there is time for, or what a run that was stopped had found.

        Args:
            deadline: on the clock of `time.monotonic`.
            look_seconds: of one measurement.
            kept: the folder of the run.
        """
        if kept is not None and (plan := read_json(kept / PLAN)):
            return int(plan["steps"]), int(plan["looks"])
        left = deadline - time.monotonic()
        looks = max(1, min(self.options.looks, int(LOOKING_SHARE * left / look_seconds)))
        left -= looks * look_seconds
        seconds = SAFETY * self._seconds_per_step()
        passes = MOST_PASSES * -(-len(self.passages) // self.options.passages_per_step)
        steps = max(1, min(passes, int(left / seconds)))
        if kept is not None:
            write_json(kept / PLAN, {"steps": steps, "looks": looks})
        return steps, looks

    @property
    def _together(self) -> int:
        """Passages in memory at a time; gradients of those of a step are added up."""
        number = self.options.passages_per_step // self.processes.number
        most = 1 if self.place.type == "cpu" else TOGETHER
        return max(n for n in range(1, number + 1) if number % n == 0 and n <= most)

    def _seconds_per_step(self) -> float:
        """Of a step without its update, on passages of middle length. The first time is not counted."""
        times = self.options.passages_per_step // self.processes.number // self._together
        return min(self._seconds_of_gradients() for _ in range(2)) * times

    def _seconds_of_gradients(self) -> float:
        by_length = sorted(self.passages, key=lambda p: len(p.ids))
        middle = max(0, (len(by_length) - self._together) // 2)
        batch = {
            name: tensor.to(self.place)
            for name, tensor in self.collator(by_length[middle : middle + self._together]).items()
        }
        started = time.monotonic()
        with torch.autocast(self.place.type, torch.bfloat16) if self.fast else nullcontext():
            loss = self.healing(**batch)["loss"]
        loss.backward()
        self.healing.zero_grad()
        return time.monotonic() - started

    def run(
        self,
        steps: int,
        looks: int,
        measure: Callable[[int], float],
        deadline: float,
        is_stopped: Callable[[], bool],
        kept: Path | None,
        curve: list[dict[str, Any]],
    ) -> tuple[int, str]:
        """Train, and put the best checkpoint in place.

        Args:
            steps: to make.
            looks: measurements on the way, at even distances.
            measure: bits per byte relative to those before, for a step's number.
            deadline: on the clock of `time.monotonic`.
            is_stopped: whether a signal asks for the end.
            kept: the folder of the run, where a run that was stopped has left its checkpoints; None: a temporary one.
            curve: the measurements of the run that was stopped come first in it.

        Returns:
            The number of steps that were made, and why there are no more: empty where all were made.
        """
        with importing("accelerate", extra="heal", wanted_by=WANTED_BY):
            from mergekit_tokenadapt.healing.trainer import Pace, training_arguments

        with tempfile.TemporaryDirectory() as temporary:
            folder = (Path(temporary) if kept is None else kept) / CHECKPOINTS
            last = self.processes.agreed(lambda: _last_checkpoint(folder))
            pace = Pace(deadline, is_stopped)
            every = max(1, -(-steps // looks))
            arguments = training_arguments(
                folder,
                self.options,
                steps=steps,
                every=every,
                together=self._together,
                processes=self.processes.number,
                device=self.place.type,
                fast=self.fast,
            )
            with progress(total=steps, desc="Training", unit="step", quiet=self.quiet) as bar:
                return self._run(pace, measure, arguments, last, bar, curve)

    def _run(
        self,
        pace: Any,
        measure: Callable[[int], float],
        arguments: Any,
        last: Path | None,
        bar: Any,
        curve: list[dict[str, Any]],
    ) -> tuple[int, str]:
        from mergekit_tokenadapt.healing.trainer import HealingTrainer, NotFiniteError

        trainer = HealingTrainer(
            self.healing,
            self.options,
            measure,
            pace,
            curve,
            bar,
            self.processes,
            args=arguments,
            train_dataset=list(self.passages),
            eval_dataset=list(self.passages[:1]),  # Trainer asks for one; `evaluate` measures held-out text
            data_collator=self.collator,
        )
        if last is not None and trainer.is_done(last):
            # The run was stopped after its last step. Trainer would make one more.
            trainer.take_up(last)
            return trainer.state.global_step, pace.ended_by
        try:
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
        except NotFiniteError as error:
            LOG.warning("heal: the loss of step %d is not a number: the best checkpoint before it counts", error.step)
            pace.ended_by = f"a loss that is not a number, at step {error.step}"
            trainer.load_best()
        return trainer.state.global_step, pace.ended_by


def _last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint; those that are not are removed."""
    found = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            found.append(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return max(found, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
