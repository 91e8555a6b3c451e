"""Training by transformers' Trainer: steps, schedule, checkpoints and going on are the library's.

Ours are the two learning rates, what a checkpoint holds (what is trained, not the whole model), the measurement on
held-out passages, and the end in time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from mergekit_tokenadapt.healing.model import HealingModel
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.processes import Processes
from mergekit_tokenadapt.healing.training import STATE
from mergekit_tokenadapt.output import write_json
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.terminal.progress import Bar
from mergekit_tokenadapt.tokenizer.files import read_json

LOG = logging.getLogger(__name__)

TRAINED = "trained.safetensors"
"""What a checkpoint holds of the model."""
CURVE = "curve.json"
METRIC = "relative_bits"


@dataclass
class Pace:
    """When training has to stop."""

    deadline: float
    """On the clock of `time.monotonic`."""
    is_stopped: Callable[[], bool]
    """Whether somebody asked for the end."""
    seconds_per_look: float = 0.0
    """Of the last measurement: it has to fit in before the deadline, too."""
    ended_by: str = field(default="", init=False)
    """Why training ended before its last step."""


class _EndsInTime(TrainerCallback):  # type: ignore[misc]
    """Measures, saves and stops where time is over or a signal came."""

    def __init__(self, pace: Pace, processes: Processes, *, is_asked: bool) -> None:
        """`is_asked`: whether the user set the number of steps."""
        self._pace, self._processes = pace, processes
        self._to_check = 2 if is_asked else 0  # the first step is a slow one
        self._last: float | None = None
        self._step_seconds = 0.0

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        now = time.monotonic()
        if self._last is not None:
            self._step_seconds = max(self._step_seconds, now - self._last)
            self._to_check -= 1
            if self._to_check == 0:
                self._check_schedule(state, now, now - self._last)
        reason = self._processes.agreed(lambda: self._reason(now))
        if reason and state.global_step < state.max_steps:
            self._pace.ended_by = reason
            control.should_evaluate = control.should_save = control.should_training_stop = True
        return control

    def _reason(self, now: float) -> str:
        """Return why training has to end here; empty if it goes on."""
        if self._pace.is_stopped():
            return "a signal"
        is_late = now + self._step_seconds + self._pace.seconds_per_look > self._pace.deadline
        return "the time limit" if is_late else ""

    def _check_schedule(self, state: Any, now: float, step_seconds: float) -> None:
        """Warn where training will end within its schedule, at learning rates that were not meant."""
        left = state.max_steps - state.global_step
        possible = max(0.0, self._pace.deadline - now) / max(step_seconds, 1e-9)
        if possible < left:
            LOG.warning(
                "heal: the learning rate's schedule is for %d steps, and the time is enough for about %d: give fewer "
                "--steps or more --minutes",
                state.max_steps,
                state.global_step + int(possible),
            )


class _Shows(TrainerCallback):  # type: ignore[misc]
    """Moves the bar; steps of the run that was stopped count at once."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._shown = bar, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        self._bar.update(state.global_step - self._shown)
        self._shown = state.global_step


class NotFiniteError(Exception):
    """The loss of a step was not a number; holds the step."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class HealingTrainer(Trainer):  # type: ignore[misc]
    """A Trainer of a `HealingModel`.

    Args:
        model: what is trained.
        options: the learning rates.
        measure: gives bits per byte of the held-out passages, relative to those before training, after so many steps.
        pace: when to stop.
        curve: the measurements so far; a checkpoint holds them.
        bar: counts the steps.
        processes: all that train.
        arguments: everything else that Trainer takes.
    """

    def __init__(
        self,
        model: HealingModel,
        options: HealOptions,
        measure: Callable[[int], float],
        pace: Pace,
        curve: list[dict[str, Any]],
        bar: Bar,
        processes: Processes,
        **arguments: Any,
    ) -> None:
        self._options, self._measure, self._pace, self._curve = options, measure, pace, curve
        self._processes = processes
        self.optimizer: torch.optim.Optimizer | None
        self.control: Any
        super().__init__(
            model=model,
            callbacks=[_EndsInTime(pace, processes, is_asked=options.steps is not None), _Shows(bar)],
            **arguments,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW without weight decay; rows and body have learning rates of their own.

        AdamW's steps have the size of the learning rate, whatever the weights are. Gemma's are five times as small as
        SmolLM2's, and a rate that suits one undoes the other. So rates are relative to the weights' size, as in
        Adafactor (arXiv 1804.04235, section 8).
        """
        if self.optimizer is None:
            healing: HealingModel = self.accelerator.unwrap_model(self.model)
            groups: list[dict[str, Any]] = [
                {"params": [rows], "lr": self._options.row_rate * scale}
                for rows, scale in zip(healing.row_parameters(), healing.row_scales, strict=True)
            ]
            if body := healing.body_parameters():
                groups.append({"params": body, "lr": self._options.body_rate * healing.body_scale})
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_args: Any, **_kwargs: Any) -> Tensor:
        """The model's own loss.

        Raises:
            NotFiniteError: it is not a number.
        """
        loss: Tensor = model(**inputs)["loss"]
        if not self._processes.all_hold(math.isfinite(float(loss.detach()))):
            raise NotFiniteError(self.state.global_step)
        return loss

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Bits per byte of the held-out passages, relative to those before training."""
        started = time.monotonic()
        metrics = {f"eval_{METRIC}": self._measure(self.state.global_step)}
        self._pace.seconds_per_look = time.monotonic() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        healing: HealingModel = self.accelerator.unwrap_model(self.model)
        save_tensors(healing.trained_tensors(), folder / TRAINED)
        write_json(folder / CURVE, {"curve": self._curve})

    def is_done(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint is that of the last step."""
        made: int = TrainerState.load_from_json(str(checkpoint / STATE)).global_step
        return made >= int(self.args.max_steps)

    def take_up(self, checkpoint: Path) -> None:
        """Take up state and curve of the checkpoint of the last step, and put the best checkpoint in place."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))
        self._load_from_checkpoint(str(checkpoint))
        self.load_best()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load(Path(resume_from_checkpoint))
        self._curve[:] = read_json(Path(resume_from_checkpoint) / CURVE)["curve"]

    def load_best(self) -> None:
        """Put the best checkpoint in place, where there is one."""
        self._load_best_model()

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load(Path(self.state.best_model_checkpoint))

    def _load(self, checkpoint: Path) -> None:
        healing: HealingModel = self.accelerator.unwrap_model(self.model)
        healing.load_trained(load_file(str(checkpoint / TRAINED)))


def training_arguments(
    folder: Path,
    options: HealOptions,
    *,
    steps: int,
    every: int,
    together: int,
    processes: int,
    device: str,
    fast: bool,
) -> TrainingArguments:
    """The library's settings.

    Args:
        folder: for checkpoints.
        options: see there.
        steps: of training.
        every: steps between two measurements, each of which writes a checkpoint.
        together: passages in memory of a process at a time; a divisor of its share of a step.
        processes: number of processes that train.
        device: ``cpu``, or else the best that the library finds.
        fast: compute in bfloat16 where that is safe (autocast).
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=together,
        gradient_accumulation_steps=options.passages_per_step // processes // together,
        max_steps=steps,
        learning_rate=options.body_rate,
        lr_scheduler_type="linear",
        # The first step of a warm-up has the rate 0. A warm-up of a single step would only waste that step.
        warmup_steps=warm if (warm := steps // 20) > 1 else 0,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        greater_is_better=False,
        logging_strategy="no",
        report_to=[],
        seed=options.seed,
        data_seed=options.seed,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
        bf16=fast,
        disable_tqdm=True,
    )
    # With several GPUs, Trainer would divide each input among them by its first axis (DataParallel). One is used.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
