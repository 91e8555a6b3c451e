"""A click group that imports a command only when it is called, so that `--help` is fast."""

from __future__ import annotations

import ast
import io
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pydantic

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.interruption import signal_of, signals_interrupt
from mergekit_tokenadapt.terminal.quiet import only_ours

LONGEST_SUMMARY = 200
"""Length of a summary in characters. It is large enough that no first sentence is truncated."""


class LazyGroup(click.Group):
    """A group of commands that are given as ``"module:function"``. A user's mistake gives one line and exit code 2.

    `commands_in` is the only list of names. The list of commands shows the first sentence of each function's docstring.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the given order."""
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._commands_in:
            return None
        module, name = self._commands_in[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return prepared(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(where)) for name, where in self._commands_in.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments and run the command. SIGTERM and SIGHUP end it as Ctrl-C does: no half-written output
        remains.
        """
        for stream in (sys.stdout, sys.stderr):
            # Tokens have characters that not every terminal's encoding has (Windows, Latin-1).
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")
        with signals_interrupt():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from mergekit_tokenadapt.terminal.progress import lines_in_logs

        try:
            with lines_in_logs():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            signal = signal_of(error)
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has written ^C, or there is a progress bar
            click.echo(f"Stopped by {signal.name}: nothing is left half written.", err=True)
            raise click.exceptions.Exit(128 + signal) from error
        except pydantic.ValidationError as error:
            from mergekit_tokenadapt.terminal.plain_words import describe_errors

            raise TokenAdaptError(describe_errors(error)) from error
        except BrokenPipeError:
            raise  # what reads the output has ended, as `head` does: click ends the command without a word
        except (OSError, MemoryError) as error:
            # The cause is outside the program: a full disk, a missing file, too little memory.
            raise TokenAdaptError(f"{type(error).__name__}: {str(error).strip()}") from error


def prepared(command: click.Command) -> click.Command:
    """Add the default of every optional option to its help, and let `--quiet` silence other libraries."""
    for option in command.params:
        if option.name == "quiet":
            option.callback = _silence
        if not isinstance(option, click.Option) or option.required or option.multiple or option.show_default:
            continue
        if option.help is not None and "[default: " not in option.help:
            option.help += f"  [default: {_default_of(option)}]"
    return command


def _silence(context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Until the command has ended, drop what other libraries say, unless it is an error."""
    if value:
        context.with_resource(only_ours())
    return value


def _default_of(option: click.Option) -> str:
    if option.secondary_opts:  # a pair: --run/--no-run
        return (option.opts if option.default else option.secondary_opts)[0].lstrip("-")
    return "off" if option.is_flag or option.count else "none"


def summary(where: str) -> str:
    """Return the first sentence of a command's docstring, as click shortens it. The source is read, not imported.

    >>> summary("mergekit_tokenadapt.cli.methods:methods_command")
    'List the installed methods and auxiliary spaces, with options'
    """
    module, name = where.split(":")
    spec = find_spec(module)
    tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    text = click.Command(name, help=ast.get_docstring(function)).get_short_help_str(LONGEST_SUMMARY)
    return text if text.endswith("...") else text.removesuffix(".")  # click 8.2 leaves the full stop there


warnings.filterwarnings("ignore", message=".*torch_dtype.*is deprecated")
