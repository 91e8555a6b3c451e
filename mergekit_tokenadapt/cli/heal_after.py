"""Healing as the last stage of a command that swaps a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import HealAfterOptions, HealOptions


class Healer:
    """Heals the model that a command is about to put in place. What would be refused later is refused at once.

    Args:
        options: minutes and texts.

    Raises:
        TokenAdaptError: a package is missing, or a text cannot be read or is too short.
    """

    def __init__(self, options: HealAfterOptions) -> None:
        from mergekit_tokenadapt.healing.passages import read_healing_texts
        from mergekit_tokenadapt.healing.run import check_heal

        minutes = {} if options.heal_minutes is None else {"minutes": options.heal_minutes}
        self._options = HealOptions(**minutes)
        self._texts = read_healing_texts(options.heal_texts)
        check_heal(self._texts, self._options)

    def finish(self, base: str, *, device: str | None, trust_remote_code: bool, quiet: bool) -> Callable[[Path], None]:
        """For `run_recipe`: what it calls with the folder before that gets its name.

        Args:
            base: the model that the folder's is made from.
            device: to compute on; None: the best there is.
            trust_remote_code: whether the models' own code may run.
            quiet: no progress, no table.

        Raises:
            TokenAdaptError: `base` names an adapter, too.
        """
        if "+" in base and not Path(base).exists():
            raise TokenAdaptError(f"--heal needs a base that is one model: merge the adapter of {base} into it first")

        def heal_folder(folder: Path) -> None:
            from rich.console import Console

            from mergekit_tokenadapt.healing.report import print_healed
            from mergekit_tokenadapt.healing.run import heal_in_place

            healed = heal_in_place(
                folder,
                self._texts,
                self._options.model_copy(update={"device": device}),
                base=base,
                trust_remote_code=trust_remote_code,
                quiet=quiet,
                say=(lambda _line: None) if quiet else (lambda line: click.echo(line, err=True)),
            )
            if not quiet:
                print_healed(Console(), healed.record)

        return heal_folder
