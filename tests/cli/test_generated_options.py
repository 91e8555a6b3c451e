"""Each option of a command is stated once, in an option class, and its flag is made from there."""

from collections.abc import Iterator, Mapping
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import click
import pytest
from annotated_types import Ge, Le
from click.testing import CliRunner
from pydantic import BaseModel, DirectoryPath, Field, NonNegativeInt, PositiveFloat, PositiveInt

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.generated_options import GeneratedOption, flags_of
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.cli.options import SET_BY_PAIR
from mergekit_tokenadapt.ensemble.options import EnsembleOptions
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import CompareOptions
from mergekit_tokenadapt.options import Flag, Options
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

INPUTS = {"like", "base", "manifest", "input_number", "against", "onto", "texts", "ids"}
INPUTS |= {"tasks", "requests", "report", "prompt", "text"}
"""What to read, or what to ask about: a model, a tokenizer, a text, tokens."""
OUTPUTS = {"named_out", "out", "output", "html", "as_json", "force", "quiet", "print_recipe"}
"""What to write, and what to print."""
TRUST = {"trust_remote_code"}
OF_THE_RECIPE = {"dtype", "pad_to_multiple_of"}
"""Keys of mergekit's recipe beside the ``adapt`` block. mergekit states them."""
OF_METHODS = {"options"}
"""``--option KEY=VALUE``: the options of methods, which other packages may add."""
OWN_MEANING = {"rows"}
"""``draft --rows``: a number only, and the default is the target's number."""
WITHOUT_CLASS = INPUTS | OUTPUTS | TRUST | OF_THE_RECIPE | OF_METHODS | OWN_MEANING
"""Options that state nothing but a name and what it means: they have no default."""

IN_NO_FLAG = {
    (CompareOptions, "rows"): "measured where --html asks for the page",
    (Rules, "characters_only"): "for the first phase of learning, not for users",
}
"""Fields without a flag, and why."""
KEYS_IN_NO_FLAG = {
    "draft": set(SET_BY_PAIR),
    "distill-prep": set(SET_BY_PAIR),
    "ensemble": {*SET_BY_PAIR, "chat_template"},  # that of the model whose vocabulary is used
    "train": {"missing_rows", "extend"},  # one model, and its tokenizer is made already
    "extend": {"missing_rows", "extend"},
}
"""Keys of the ``adapt`` block without a flag, by command."""
CLASSES_IN = (
    "evaluation.options", "ensemble.options", "healing.options", "supertokens.options",
    "texts.selection", "two_models.options"
)  # fmt: skip


def commands_of(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands_of(command)
        else:
            yield command


COMMANDS = [*commands_of(main), *commands_of(evaluate)]


def generated(command: click.Command) -> list[GeneratedOption]:
    return [option for option in command.params if isinstance(option, GeneratedOption)]


def written(command: click.Command) -> list[click.Option]:
    """Options that are written by hand, without mergekit's."""
    options = [option for option in command.params if isinstance(option, click.Option)]
    options = [option for option in options if not isinstance(option, GeneratedOption)]
    if command.name == "transplant":
        from mergekit.options import MergeOptions

        options = [option for option in options if option.name not in MergeOptions.model_fields]
    return options


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_option_without_a_class_states_no_default(command):
    assert {option.name for option in written(command)} <= WITHOUT_CLASS
    stated = {option.name: option.to_info_dict()["default"] for option in written(command)}
    assert {name: default for name, default in stated.items() if default not in (None, False, ())} == {}


@pytest.mark.parametrize("command", [c for c in COMMANDS if generated(c)], ids=lambda command: command.name)
def test_a_flag_leaves_its_default_to_the_class_and_shows_it(command):
    for option in generated(command):
        model, key = option.field_of
        field = model.model_fields[key]
        assert option.default is None
        assert option.required == field.is_required()
        shown = option.get_help_extra(click.Context(command)).get("default")
        marks = [mark.default for mark in field.metadata if isinstance(mark, Flag) and mark.default]
        if marks:
            assert shown == marks[0]
        elif field.is_required() or option.multiple:
            assert shown is None
        elif field.annotation is bool:
            assert shown == (option.opts[0].removeprefix("--") if field.default else "off")
        else:
            assert shown == ("none" if field.default is None else str(field.default))
        assert option.help is not None
        assert option.help[1:].startswith(str(field.description)[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if generated(c)], ids=lambda command: command.name)
def test_every_field_of_a_commands_classes_has_a_flag(command):
    flags = {option.field_of for option in generated(command)}
    models = {model for model, _ in flags}
    fields = {(model, key) for model in models for key, field in model.model_fields.items() if not is_class(field)}
    without = set(IN_NO_FLAG) | {(AdaptConfig, key) for key in KEYS_IN_NO_FLAG.get(command.name, ())}
    assert fields - flags == fields & without


def is_class(field) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Options)


def test_every_option_class_has_its_command():
    flags = {option.field_of[0] for command in COMMANDS for option in generated(command)}
    modules = [import_module(f"mergekit_tokenadapt.{name}") for name in CLASSES_IN]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Options) and value is not Options
    }
    assert classes == flags - {AdaptConfig}


# --- the helper


class Colour(str, Enum):
    RED = "red"


class Inner(Options):
    """Options inside others."""

    depth: PositiveInt = Field(default=3, description="how deep")


class Sample(Options):
    """One field of every kind."""

    number: Annotated[int, Ge(0), Le(9)] = Field(default=1, description="a number")
    share: PositiveFloat = Field(default=0.5, description="a share")
    kind: Literal["a", "b"] = Field(default="a", description="a kind")
    colours: Annotated[frozenset[Colour], Flag("colour")] = Field(default=frozenset(), description="a colour")
    maybe: Annotated[PositiveInt | None, Flag(default="all")] = Field(default=None, description="a limit")
    place: DirectoryPath | None = Field(default=None, description="a folder")
    pairs: Mapping[str, int] = Field(default_factory=dict, description="numbers by name")
    on: bool = Field(default=True, description="something that is on")
    off: bool = Field(default=False, description="something that is off")
    inner: Inner = Field(default_factory=Inner)
    hidden: NonNegativeInt = Field(default=7, description="not for users")


@click.command()
@flags_of(Sample, "sample", but=("hidden",))
@click.option("--other")
def sample_command(sample: Sample, other: str | None) -> None:
    """Print what it gets."""
    click.echo(f"{sample!r} {other}")


def run(*arguments: str):
    return CliRunner().invoke(sample_command, list(arguments), terminal_width=200)


def test_without_flags_a_command_gets_the_classes_defaults():
    assert run().output == f"{Sample()!r} None\n"


def test_flags_become_fields(tmp_path: Path):
    arguments = ["--number", "9", "--share", "0.25", "--kind", "b", "--colour", "red", "--maybe", "4", "--no-on"]
    arguments += ["--off", "--place", str(tmp_path), "--pairs", "x=1", "--pairs", "y=2", "--depth", "5"]
    arguments += ["--other", "o"]
    expected = Sample(
        number=9, share=0.25, kind="b", colours=frozenset([Colour.RED]), maybe=4, place=tmp_path, on=False, off=True,
        pairs={"x": 1, "y": 2}, inner=Inner(depth=5),
    )  # fmt: skip
    assert run(*arguments).output == f"{expected!r} o\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number", "10"], "10 is not in the range 0<=x<=9"),
        (["--share", "0"], "0.0 is not in the range x>0"),
        (["--share", "inf"], "inf is not a finite number"),
        (["--maybe", "0"], "0 is not in the range x>=1"),
        (["--kind", "c"], "'c' is not one of 'a', 'b'"),
        (["--colour", "blue"], "'blue' is not"),
        (["--place", "nowhere"], "Directory 'nowhere' does not exist"),
        (["--depth", "0"], "0 is not in the range x>=1"),
        (["--pairs", "x"], "--pairs takes KEY=VALUE, not 'x'"),
        (["--pairs", "x=y"], "pairs.x: takes a whole number, not 'y'"),
        (["--hidden", "1"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_help_says_what_the_class_says():
    told = " ".join(run("--help").output.split())
    assert "--number INTEGER RANGE A number. [default: 1; 0<=x<=9]" in told
    assert "--maybe INTEGER RANGE A limit. [default: all; x>=1]" in told
    assert "--colour [red] A colour. Repeatable." in told
    assert "--on / --no-on Something that is on. [default: on]" in told
    assert "--off Something that is off. [default: off]" in told
    assert "--depth INTEGER RANGE How deep. [default: 3; x>=1]" in told


def test_an_option_class_says_in_one_line_what_is_wrong():
    with pytest.raises(TokenAdaptError, match=r"unknown option 'numbr'.*did you mean 'number'"):
        Sample(numbr=1)
    with pytest.raises(TokenAdaptError, match="share: takes a finite number"):
        Sample(share=float("nan"))
    with pytest.raises(TokenAdaptError, match="mean: takes 'arithmetic' or 'geometric', not 'harmonic'"):
        EnsembleOptions(mean="harmonic")
    with pytest.raises(ValueError, match="frozen"):
        Sample().number = 2
    assert issubclass(Options, BaseModel)
