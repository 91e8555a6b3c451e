"""A click group that imports a command when it is called, so that `--help` is quick."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
import pydantic

from mergekit_tokenadapt.errors import TokenAdaptError

SUMMARIES = {
    "transplant": "Make OUT: the model BASE with the tokenizer TARGET.",
    "plan": "Print what a transplant would do, without loading weights.",
    "explain": "Show which old tokens, with which weights, make a new token's row.",
    "methods": "List the installed methods and auxiliary spaces, with options.",
    "supertokens": "Learn vocabularies whose tokens may span words.",
    "train": "Learn a new tokenizer from text.",
    "extend": "Add tokens to a tokenizer by continuing its merges.",
    "report": "Compression and safety of learned tokenizers.",
    "distill-prep": "Make OUT: the model STUDENT on the vocabulary of TEACHER, to be distilled as usual.",
    "align": "Write the spans that two tokenizations of a text share, and the nearest tokens.",
    "restore": "Put a model back on the vocabulary that it had before.",
    "ensemble": "Average several models, token by token on one vocabulary, or byte by byte.",
    "check": "Is a model folder sound? Sizes, ids, tensors, tokenizer; against its base where given.",
    "compare": "Quality of models side by side, in units that compare across tokenizers.",
    "tokenizer": "Quality of tokenizers, without a model.",
    "draft": "How long a draft model's guesses are accepted by a target model.",
    "tasks": "Scores of lm-evaluation-harness tasks, in the same report.",
}


class LazyGroup(click.Group):
    """Commands by ``"module:name"``; their user errors end in one line and exit code 2.

    `summaries` go before those in `SUMMARIES`: two groups may have a command of the same name.
    """

    def __init__(
        self, *args: Any, commands_in: Mapping[str, str], summaries: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._commands_in = commands_in
        self._summaries = {**SUMMARIES, **(summaries or {})}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order given."""
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._commands_in:
            return None
        module, name = self._commands_in[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summaries[name]) for name in self._commands_in])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except pydantic.ValidationError as error:
            from mergekit_tokenadapt.methods.base import describe_errors

            raise TokenAdaptError(describe_errors(error)) from error
        except (OSError, MemoryError) as error:
            # The machine's fault or the user's, not ours: a full disk, a missing file, too little memory.
            raise TokenAdaptError(f"{type(error).__name__}: {str(error).strip()}") from error


warnings.filterwarnings("ignore", message=".*torch_dtype.*is deprecated")
