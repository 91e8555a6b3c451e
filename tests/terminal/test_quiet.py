"""With --quiet, other libraries say nothing but errors; we still warn."""

import logging
import os
import warnings

import click
import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.lazy import LazyGroup, prepared
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.terminal.quiet import LIBRARIES, only_ours

OURS, THEIRS = logging.getLogger("mergekit_tokenadapt.some.module"), logging.getLogger("mergekit.some.module")


@click.command()
@click.option("--quiet", is_flag=True)
def talk(quiet: bool) -> None:
    """Say everything there is to say."""
    logging.warning("Inferred 2 modules:")  # as mergekit says it
    THEIRS.warning("their warning")
    THEIRS.error("their error")
    OURS.warning("our warning")
    warnings.warn("their python warning", UserWarning, stacklevel=1)
    click.echo(os.environ.get("TRANSFORMERS_VERBOSITY", "unset"))


group = LazyGroup(commands_in={"talk": f"{__name__}:talk"})


def said(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> str:
    # As a command finds them: without pytest's handlers, and without variables.
    monkeypatch.setattr(logging.root, "handlers", [])
    for name in LIBRARIES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: prepared(talk))
    result = CliRunner().invoke(group, ["talk", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_quiet_leaves_our_warnings_and_all_errors(monkeypatch):
    before = [logging.getLogger(name).level for name in LIBRARIES]
    output = said("--quiet", monkeypatch=monkeypatch)
    assert "our warning" in output
    assert "their error" in output
    for silent in ("Inferred", "their warning", "their python warning"):
        assert silent not in output
    assert output.endswith("error\n")
    assert logging.root.handlers == []
    assert [logging.getLogger(name).level for name in LIBRARIES] == before
    assert "TRANSFORMERS_VERBOSITY" not in os.environ


def test_without_quiet_everything_is_said(monkeypatch):
    with pytest.warns(UserWarning, match="their python warning"):
        output = said(monkeypatch=monkeypatch)
    for line in ("Inferred 2 modules", "their warning", "their error", "our warning"):
        assert line in output
    assert output.endswith("unset\n")


def test_filters_of_a_program_s_own_handlers_are_taken_off_again(caplog):
    with only_ours():
        THEIRS.warning("unheard")
        OURS.warning("heard")
    THEIRS.warning("heard again")
    assert [record.message for record in caplog.records] == ["heard", "heard again"]


@pytest.mark.parametrize(("tool", "arguments"), [
    (main, ["transplant"]), (main, ["explain"]), (main, ["supertokens", "train"]), (evaluate, ["compare"]),
])  # fmt: skip
def test_every_quiet_option_does_that(tool, arguments, monkeypatch):
    command: click.Command = tool
    for name in arguments:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    (quiet,) = [option for option in command.params if option.name == "quiet"]
    entered = []
    monkeypatch.setattr("mergekit_tokenadapt.cli.lazy.only_ours", lambda: entered.append(True) or only_ours())
    with click.Context(command) as context:
        quiet.process_value(context, True)
    assert entered == [True]
