"""Heal a model after its tokenizer was swapped: teach, train, judge, write."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergekit_tokenadapt.correction.states import Reader
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import require
from mergekit_tokenadapt.healing.belonging import open_base
from mergekit_tokenadapt.healing.collator import Collator, rows_to_train
from mergekit_tokenadapt.healing.judging import bits_per_byte, probes, relative, worse
from mergekit_tokenadapt.healing.model import HealingModel
from mergekit_tokenadapt.healing.objectives import collator_for, lesson_for
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.own_text import own_passages, spread
from mergekit_tokenadapt.healing.passages import HealingText
from mergekit_tokenadapt.healing.processes import Processes
from mergekit_tokenadapt.healing.rendering import Renderer
from mergekit_tokenadapt.healing.targets import WANTED_BY, Lesson
from mergekit_tokenadapt.healing.trainable import check_trainable
from mergekit_tokenadapt.healing.writing import check_writable, interpolated, rounded, write_healed
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.loading import choose_device, fast_dtype, load_model
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.storage.interruption import signals_noted
from mergekit_tokenadapt.storage.model_state import state_of
from mergekit_tokenadapt.storage.shards import CACHE_VARIABLE, cache_folder, shard_folder
from mergekit_tokenadapt.storage.staging import check_output, staged_folder
from mergekit_tokenadapt.texts import TextSet, halved_to_fit
from mergekit_tokenadapt.tokenizer.encoded_text import first_token

LOG = logging.getLogger(__name__)

TEACHING_SHARE = 0.3
"""The share of the time in which the base model may read; what it has not read is not trained on."""
TEACHING_SHARE_OF_STEPS = 0.5
"""The same where the number of steps is given: then it reads what these need, within this share."""

TARGET_BYTES = 150
"""Bytes on disk for the targets of one byte of text, at most: 64 probabilities of 6 bytes for a token of 3."""


@dataclass(frozen=True)
class Healed:
    """What came out."""

    folder: Path
    record: dict[str, Any]
    """What the manifest says under ``healing``."""
    is_better: bool
    """Whether training helped; otherwise the folder holds the model as it was."""
    curve_seconds: tuple[float, ...] = ()
    """Seconds from the beginning to each measurement of the record's curve that this run made."""
    is_first: bool = True
    """Whether this process wrote the folder; of several (``accelerate launch``), one does."""


def heal(
    model: str,
    out: str,
    texts: Sequence[TextSet],
    options: HealOptions | None = None,
    *,
    base: str | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = lambda _line: None,
    is_made_anew: bool = False,
) -> Healed:
    """Train a transplanted model for a few minutes to predict what its base model predicts, and write it to `out`.

    Args:
        model: the folder of a transplanted model.
        out: the folder to be made.
        texts: to train on and, other passages of them, to measure on.
        options: see there.
        base: the model that it was made from; None: the one that the manifest names.
        force: replace `out` where it exists.
        trust_remote_code: whether the models' own code may run.
        quiet: no progress.
        say: gets a line after each measurement.
        is_made_anew: whether the folder of `model` is written by each run, so that its times say nothing. Its contents
            then decide whether a run that was stopped can go on.

    Raises:
        TokenAdaptError: a package is missing; `out` may not be written; there is no base, or another one; the text is
            too short; or the model cannot be trained.
    """
    started = time.monotonic()
    options = options or HealOptions()
    processes = Processes.of_run(options.minutes, options.device)  # first: it chooses the GPU of this process
    check_heal(texts, options)
    if options.passages_per_step % processes.number:
        raise TokenAdaptError(
            f"{processes.number} processes cannot share the {options.passages_per_step} passages of a step: set "
            "--passages-per-step to a multiple"
        )
    if not processes.is_first:
        quiet, say = True, lambda _line: None
    check_output(out, force=force, inputs=[model, *([base] if base else [])], texts=[text.source for text in texts])
    opened = open_model(model, trust_remote_code=trust_remote_code)
    check_trainable(opened, options)
    opened = opened.with_own_rows()
    teacher = open_base(opened, base)
    destination = check_output(out, force=force, inputs=[model, teacher.folder], texts=[t.source for t in texts])
    longest = passage_limit(teacher.config, opened.config)
    text = HealingText.of(texts, options, Renderer(teacher.tokenizer, opened.tokenizer), longest)
    _check_disk(opened, text, options)
    if opened.tokenizer.chat_template is not None and not text.has_conversations:
        say("the model has a chat template, and no text holds conversations: tokens of roles are not trained")
    work = _Work(opened, teacher, text, longest, options, quiet, say, started, processes)
    states = [state_of(opened.folder, by_content=is_made_anew), state_of(teacher.folder)]
    name = f"heal-{_key(states, text, options)}"
    with shard_folder(name) if processes.is_first else nullcontext(cache_folder() / name) as own:
        kept = processes.agreed(lambda: own)
        if kept is None and processes.number > 1:
            raise TokenAdaptError(f"several processes need a folder for what they share: set ${CACHE_VARIABLE}")
        trained, record = work.do(kept)

        def written() -> dict[str, Any]:
            with staged_folder(out, force=force) as staged:
                write_healed(opened, trained, record, staged)
            return record

        told = processes.agreed(written)
    return Healed(destination, told, told["is_better"], tuple(work.curve_seconds), processes.is_first)


def place_of(options: HealOptions) -> torch.device:
    """Return the device to compute on.

    Raises:
        TokenAdaptError: it is not the first GPU, where transformers' Trainer puts the model.
    """
    place = choose_device(options.device)
    if place.type == "cuda" and place.index:
        raise TokenAdaptError(
            f"heal trains on the first GPU that it sees, and not on {place}: set CUDA_VISIBLE_DEVICES to the one that "
            "is meant"
        )
    return place


def check_heal(texts: Sequence[TextSet], options: HealOptions) -> None:
    """Find out what `heal` would refuse, before there is a model to heal.

    Raises:
        TokenAdaptError: a package is missing, the device is not the first GPU, or a text is too short.
    """
    place_of(options)
    for package in options.needed_packages():
        require(package, extra="heal", wanted_by=WANTED_BY)
    HealingText.of(texts, options)


def heal_in_place(folder: Path, texts: Sequence[TextSet], options: HealOptions, **settings: Any) -> Healed:
    """Heal the model in a folder that is not finished, and put what comes out in its place.

    If a run was stopped, a later one that makes the same folder again goes on from the last checkpoint.

    Args:
        folder: of a transplanted model.
        texts: see `heal`.
        options: see `heal`.
        settings: those of `heal` that have names.

    Raises:
        TokenAdaptError: see `heal`.
    """
    with tempfile.TemporaryDirectory(prefix=".heal-", dir=folder.parent) as temporary:
        out = str(Path(temporary, folder.name))
        healed = heal(str(folder), out, texts, options, is_made_anew=True, **settings)
        shutil.rmtree(folder)
        healed.folder.rename(folder)
    return replace(healed, folder=folder)


def _check_disk(model: ModelFolder, text: HealingText, options: HealOptions) -> None:
    """Refuse a disk that cannot hold the targets and two checkpoints, which have AdamW's two moments beside weights."""
    names = model.tensors if options.train == "all" else model.matrices
    numbers = sum(math.prod(model.tensors.shape(name)) for name in names)
    num_bytes = text.num_bytes if options.objective != "next_token" else 0
    if options.steps is not None:
        num_bytes = min(num_bytes, options.steps * options.passages_per_step * options.passage_bytes)
    needed = TARGET_BYTES * num_bytes + 2 * 3 * 4 * numbers
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise TokenAdaptError(
            f"healing needs up to {needed / 1e9:.1f} GB for targets and checkpoints, and {there} has "
            f"{free / 1e9:.1f} GB left: use less text (--bytes), or set ${CACHE_VARIABLE} to a folder on another disk"
        )


@dataclass
class _Work:
    """One run."""

    model: ModelFolder
    base: ModelFolder
    text: HealingText
    longest: int | None
    """The most bytes of a passage that both models can read; None for any number."""
    options: HealOptions
    quiet: bool
    say: Callable[[str], None]
    started: float
    """On the clock of `time.monotonic`."""
    processes: Processes

    @property
    def deadline(self) -> float:
        """On the same clock."""
        return self.started + 60 * self.options.minutes

    def __post_init__(self) -> None:
        self.place = self.processes.device or place_of(self.options)
        self.fast = fast_dtype(self.place) is torch.bfloat16
        self.probes = probes(self.options.probe_bytes)
        self.curve: list[dict[str, Any]] = []
        self.curve_seconds: list[float] = []

    def do(self, kept: Path | None) -> tuple[Any, dict[str, Any]]:
        """Teach, train, judge: the trained model, or None where training did not help; and the record.

        Of several processes, all but the first return None and nothing when training is over.
        """
        base_bits = self.processes.agreed(self._base_bits)
        lesson = self.processes.first_then_others(lambda: self._teach(kept))
        if not self.processes.all_same(lambda: _hash_of(lesson)):
            raise TokenAdaptError(
                "the processes do not find what the first of them has read: they need one folder for all, on a disk "
                f"with space, in ${CACHE_VARIABLE}"
            )
        began = time.monotonic()
        loaded = load_model(self.model, device=str(self.place), dtype="float32")
        load_seconds = time.monotonic() - began
        check_writable(self.model, loaded, kept)
        with Reader(loaded, WANTED_BY) as reader:
            scale = reader.scale
        start = first_token(self.model.tokenizer.vocabulary)
        trained = rows_to_train(lesson.passages, start, self.model.num_rows)
        collator = collator_for(self.model, trained, start, self.options)
        healing = HealingModel(loaded, trained, scale, self.options).to(self.place)
        began = time.monotonic()
        with healing.whole() as whole:
            held_out = self.processes.agreed(lambda: self._measure(whole, self.text.held_out))
            look_seconds = time.monotonic() - began
            before = held_out, self.processes.agreed(lambda: self._measure(whole, self.probes))
        # What comes after the last step: the same measurements, the model before healing (`interpolated`), and writing.
        last_step_by = self.deadline - 1.2 * (time.monotonic() - began + load_seconds) - 5
        self.say(_line("before", before[0]))
        if time.monotonic() > last_step_by:
            LOG.warning(
                "heal: %g minutes are too short for what comes before and after training: one step is made, and the "
                "run ends late; give more --minutes, or measure less (--probe-bytes 0)",
                self.options.minutes,
            )
        steps, ended_by = self._train(healing, collator, lesson, before[0], kept, look_seconds, last_step_by)
        if not self.processes.is_first:
            return None, {}
        model = healing.finished()
        interpolated(self.model, model, self.options.interpolate)
        rounded(self.model, model)
        after = self._measure(model, self.text.held_out), self._measure(model, self.probes)
        share = self.options.interpolate
        self.say(_line("after" if share == 1 else f"after, with {share:.0%} of the change", after[0]))
        is_better = relative(after[0], before[0]) < 1
        if not is_better:
            LOG.warning("heal: training did not help on the held-out passages: the model is written as it was")
            after = before
        got_worse = [
            f"{name} ({what})"
            for what, now, then in zip(("held out", "built-in"), after, before, strict=True)
            for name in worse(now, then)
        ]
        if got_worse:
            LOG.warning("heal: worse than before on %s", ", ".join(got_worse))
        tokens = sum(len(p.ids) for p in lesson.passages)
        record = {
            "base": self.base.name,
            "texts": list(self.text.texts),
            "options": self.options.model_dump() | {"rate": self.options.body_rate},
            "steps": steps,
            "ended_by": ended_by,
            "passages": len(lesson.passages),
            "tokens": tokens,
            "trained_rows": len(trained),
            "is_better": is_better,
            "held_out": {"base": base_bits, "before": before[0], "after": after[0]},
            "probes": {"before": before[1], "after": after[1]},
            "worse": got_worse,
            "curve": self.curve,
            "threads": torch.get_num_threads(),
        }
        return (model if is_better else None), record

    def _base_bits(self) -> dict[str, float]:
        loaded = load_model(self.base, device=str(self.place), dtype=fast_dtype(self.place))
        read = self.text.held_out_of_base
        bits = bits_per_byte(loaded, self.base.tokenizer, read)
        # Bits of what the base's chat template makes of a conversation, for each byte of what the new model reads.
        sizes = {old.name: old.num_bytes / new.num_bytes for old, new in zip(read, self.text.held_out, strict=True)}
        return {name: value * sizes[name] for name, value in bits.items()}

    def _measure(self, model: Any, texts: Sequence[TextSet]) -> dict[str, float]:
        return bits_per_byte(model, self.model.tokenizer, texts, fast=self.fast)

    def _teach(self, kept: Path | None) -> Lesson:
        options = self.options
        passages = list(self.text.training)
        if options.own_passages:
            written_by = time.monotonic() + TEACHING_SHARE * (self.deadline - time.monotonic())
            own = own_passages(
                self.base,
                options.own_passages,
                options.seed,
                self.place,
                kept,
                goes_on=lambda: time.monotonic() < written_by,
                quiet=self.quiet,
            )
            passages = spread(list(halved_to_fit(own, self.longest)), passages)
        share = TEACHING_SHARE if options.steps is None else TEACHING_SHARE_OF_STEPS
        # What the base model does not read takes no time before training.
        share *= 1 - options.unread_share
        until = time.monotonic() + share * (self.deadline - time.monotonic())
        lesson = lesson_for(
            self.model,
            self.base,
            passages,
            options,
            self.place,
            kept,
            longest=self.longest,
            goes_on=lambda: time.monotonic() < until,
            quiet=self.quiet,
        )
        if (seconds := lesson.seconds_per_thousand) is not None:
            self.say(f"targets: {lesson.tokens_read:,} tokens, {seconds:.1f} seconds for 1,000 tokens")
        return lesson

    def _train(
        self,
        healing: HealingModel,
        collator: Collator,
        lesson: Lesson,
        before: dict[str, float],
        kept: Path | None,
        look_seconds: float,
        deadline: float,
    ) -> tuple[int, str]:
        """Train; the best checkpoint is in place then. Gives the steps that were made, and why there are no more."""
        from mergekit_tokenadapt.healing.training import Training

        training = Training(
            healing, collator, lesson.passages, self.options, self.place, self.fast, self.quiet, self.processes
        )
        if self.options.steps is None:
            steps, looks = self.processes.agreed(lambda: training.affordable(deadline, look_seconds, kept))
        else:
            steps, looks = self.options.steps, self.options.looks

        def measure(step: int) -> float:
            with healing.whole() as whole:
                now = self.processes.agreed(lambda: self._measure(whole, self.text.held_out))
            self.curve.append({"step": step, "bits_per_byte": now})
            self.curve_seconds.append(time.monotonic() - self.started)
            self.say(_line(f"step {step} of {steps}", now))
            return relative(now, before)

        with signals_noted() as came:
            return training.run(steps, looks, measure, deadline, lambda: bool(came), kept, self.curve)


def _hash_of(lesson: Lesson) -> str:
    """Return a hash of the passages that are trained on."""
    digest = hashlib.sha256()
    for passage in lesson.passages:
        digest.update(passage.ids.numpy().tobytes())
    return digest.hexdigest()


def _line(when: str, bits: dict[str, float]) -> str:
    return f"{when}: " + ", ".join(f"{name} {value:.3f}" for name, value in bits.items()) + " bits per byte"


def _key(states: Sequence[str], text: HealingText, options: HealOptions) -> str:
    """Changes with everything that a checkpoint depends on; the time that may be used is not among it.

    Args:
        states: of the folders of the model and of its base, see `state_of`.
        text: the passages.
        options: all settings.
    """
    settings = {name: value for name, value in options.model_dump().items() if name not in ("minutes", "device")}
    return hashlib.sha256(json.dumps([settings, text.sha256, list(states)], sort_keys=True).encode()).hexdigest()[:40]
