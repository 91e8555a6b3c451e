"""Healing as the last stage of a command that swaps a tokenizer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import HealAfterOptions, HealOptions

if TYPE_CHECKING:
    from mergekit_tokenadapt.healing.target_text import TargetWriter
    from mergekit_tokenadapt.supertokens.texts import Corpus
    from mergekit_tokenadapt.texts import TextSet

LOG = logging.getLogger(__name__)

WRITING_SHARE = 0.3
"""The share of --heal-minutes in which the target of a draft may write text."""


def line_printer(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints a line about healing on standard error, or does nothing with `quiet`."""
    return (lambda _line: None) if quiet else (lambda line: click.echo(line, err=True))


def say_one_kind(texts: Sequence[str], option: str) -> None:
    """Say that other kinds of text may get worse, if the user gave one text with this option."""
    if len(texts) == 1:
        click.echo(f"One text was given. Kinds of text that it lacks may get worse: give one {option} for each kind.")


def untied_maker(
    adapt: Mapping[str, Any], make: Callable[[str, Mapping[str, Any]], object]
) -> Callable[[Path], object] | None:
    """Return what writes a command's model with two vocabulary matrices into a folder, for `healing_stage`.

    Args:
        adapt: the ``adapt`` block of the command.
        make: writes the command's model into a folder, with an ``adapt`` block.

    Returns:
        None where --untie or --no-untie has settled the number of matrices.
    """
    return None if "untie" in adapt else lambda folder: make(str(folder), {**adapt, "untie": True})


def healing_stage(
    options: HealAfterOptions,
    base: str,
    out: str,
    *,
    force: bool,
    quiet: bool,
    device: str | None = None,
    trust_remote_code: bool = False,
    target: str | None = None,
    learned_from: Corpus | None = None,
    make_untied: Callable[[Path], object] | None = None,
) -> Callable[[Path], None] | None:
    """What a command calls with the folder of the swapped model before that gets its name; None without --heal.

    What healing would refuse later is refused at once.

    Args:
        options: minutes and texts.
        base: the model that the folder's is made from.
        out: the folder that the command writes. It may not hold the text to heal on, or lie in it.
        force: whether it may be replaced.
        quiet: no progress, no table.
        device: to compute on; None: the best there is.
        trust_remote_code: whether the models' own code may run.
        target: the model that a draft is made for: it writes the text to heal on, and `options` name the text for its
            prompts. None: the options name the text to heal on.
        learned_from: the text that the vocabulary is learned from. Its beginning is the text to heal on where the
            options name none.
        make_untied: writes the same transplant with two vocabulary matrices into a folder, where held-out text is to
            choose between one and two; None: the choice was made. See `untied_maker`.

    Raises:
        TokenAdaptError: a package is missing; a text cannot be read or is too short; `out` may not be written; there
            are several processes; `base` is no model that can be healed, or names an adapter, too; or an ordinary token
            of `base` or `target` has no row.
    """
    if not options.heal:
        return None
    if "+" in base and not Path(base).exists():
        raise TokenAdaptError(f"--heal needs a base that is one model: merge the adapter of {base} into it first")
    from mergekit_tokenadapt.healing.processes import launched

    if launched() > 1:
        raise TokenAdaptError("--heal runs in one process: swap first, and launch the command `heal` in several")
    from mergekit_tokenadapt.healing.passages import read_healing_texts
    from mergekit_tokenadapt.healing.run import check_heal
    from mergekit_tokenadapt.healing.trainable import check_trainable
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.storage.staging import check_output
    from mergekit_tokenadapt.texts import TextSet

    minutes = {} if options.heal_minutes is None else {"minutes": options.heal_minutes}
    chosen = HealOptions(**minutes).model_copy(update={"device": device})
    if learned_from is not None and not options.heal_texts:
        texts = [TextSet.of("text", learned_from.pieces(chosen.max_bytes), ", ".join(learned_from.sources))]
    else:
        texts = read_healing_texts(options.heal_texts, "--heal-text")
    check_output(out, force=force, inputs=[base], texts=[text.source for text in texts])
    check_heal(texts, chosen)
    check_trainable(open_model(base, trust_remote_code=trust_remote_code).with_own_rows(), chosen)
    writer = None if target is None else _writer(target, texts, chosen.seed, trust_remote_code=trust_remote_code)

    say = line_printer(quiet=quiet)

    def heal_folder(folder: Path) -> None:
        from rich.console import Console

        from mergekit_tokenadapt.healing.report import print_healed
        from mergekit_tokenadapt.healing.run import heal_in_place
        from mergekit_tokenadapt.healing.untying import choose_matrices

        if make_untied is not None:
            choose_matrices(folder, make_untied, texts, chosen, base=base, trust_remote_code=trust_remote_code, say=say)
        with _written(writer, texts, chosen, quiet=quiet) as (to_heal_on, left):
            healed = heal_in_place(
                folder,
                to_heal_on,
                left,
                base=base,
                trust_remote_code=trust_remote_code,
                quiet=quiet,
                say=say,
            )
        if not quiet:
            try:
                print_healed(Console(), healed.record)
                say_one_kind(options.heal_texts, "--heal-text")
            except OSError as error:  # nobody reads the output, or its disk is full: the model does not depend on it
                LOG.warning("the result of healing cannot be printed (%s): tokenadapt.json has it", error)

    return heal_folder


def _writer(target: str, texts: Sequence[TextSet], seed: int, *, trust_remote_code: bool) -> TargetWriter:
    from mergekit_tokenadapt.healing.conversations import ChatSet
    from mergekit_tokenadapt.healing.target_text import TargetWriter
    from mergekit_tokenadapt.models.folder import open_model

    for text in texts:
        if isinstance(text, ChatSet):
            raise TokenAdaptError(f"--heal-text {text.name}: a draft's target gets prompts of plain text, not messages")
    return TargetWriter(open_model(target, trust_remote_code=trust_remote_code).with_own_rows(), texts, seed)


@contextmanager
def _written(
    writer: TargetWriter | None, texts: Sequence[TextSet], options: HealOptions, *, quiet: bool
) -> Iterator[tuple[Sequence[TextSet], HealOptions]]:
    """The text to heal on, and the options with the time that is left when it is written."""
    if writer is None:
        yield texts, options
        return
    from mergekit_tokenadapt.models.loading import choose_device

    started = time.monotonic()
    seconds = 60 * WRITING_SHARE * options.minutes
    with writer.written(seconds, choose_device(options.device), quiet=quiet) as written:
        # A run that goes on finds the text written, and has as long for the rest as the one that was stopped.
        left = max(options.minutes - (time.monotonic() - started) / 60, (1 - WRITING_SHARE) * options.minutes)
        yield written, options.model_copy(update={"minutes": left})
