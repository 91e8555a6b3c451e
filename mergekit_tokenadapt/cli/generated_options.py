"""Make click options from the fields of an option class, so that the class alone defines them.

An option that is not given is not passed on, and the class applies its own default. The help shows that default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import click
import pydantic
import yaml
from pydantic.fields import FieldInfo
from pydantic.types import PathType

from mergekit_tokenadapt.cli.types import FiniteRange
from mergekit_tokenadapt.options import Flag, Options

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class GeneratedOption(click.Option):
    """An option that stands for one field of an option class."""

    def __init__(self, *args: Any, field_of: tuple[type[pydantic.BaseModel], str], default_is: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.show_default = True
        self.field_of = field_of
        """The option class, and the name of the field."""
        self.default_is = default_is
        """The class's default in words. It is empty if the help shows none."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what the help shows in brackets. The default comes from the class, because click has none."""
        extra = super().get_help_extra(ctx)
        if self.default_is:
            extra["default"] = self.default_is
        return extra


def flags_of(options: type[Options], name: str, but: Collection[str] = ()) -> Callable[[CommandT], CommandT]:
    """Return a decorator that gives a command a flag for each field of an option class.

    A field that is itself an option class gives the flags of its fields.

    Args:
        options: the option class.
        name: the command's parameter that gets the object.
        but: fields without a flag.
    """

    def decorate(command: CommandT) -> CommandT:
        @wraps(command)
        def with_options(*args: Any, **given: Any) -> Any:
            made = options(**_given_to(options, given, but))
            return command(*args, **{name: made}, **given)

        decorated: Any = with_options
        for option in reversed(list(_options_of(options, but))):
            decorated = option(decorated)
        return cast(CommandT, decorated)

    return decorate


def option_of(model: type[pydantic.BaseModel], key: str, *, is_checked: bool = True) -> Callable[[CommandT], CommandT]:
    """Return the click option for one field of a pydantic model. Its value is None or () if it is not given.

    Args:
        model: the option class.
        key: the field.
        is_checked: whether click checks the value. If not, it stays text, and the class checks it.
    """
    field = model.model_fields[key]
    flag = _flag_of(field)
    name = flag.name or key.replace("_", "-")
    shown: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {}
    names = [f"--{name}"]
    default = flag.default or ("none" if field.default is None else str(field.default))
    if field.annotation is bool and (field.default or flag.has_opposite):
        names, default = [f"--{name}/--no-{name}"], flag.default or name
    elif field.annotation is bool:
        shown["is_flag"], default = True, "off"
    else:
        inner, shown["multiple"] = _element_of(field)
        shown["type"] = _type_of(*inner) if is_checked else click.STRING
        if field.is_required() or (shown["multiple"] and flag.default is None):
            default = ""
    return click.option(
        *names,
        key,
        cls=GeneratedOption,
        default=None,
        required=field.is_required(),
        help=_sentence(field, repeatable=shown.get("multiple", False)),
        field_of=(model, key),
        default_is=default,
        **shown,
    )


def read_pairs(pairs: Sequence[str], option: str, *, typed: bool, form: str = "KEY=VALUE") -> dict[str, Any]:
    """Return ``KEY=VALUE`` options as a dictionary. With `typed`, values are read as YAML (``3``, ``0.5``, ``true``).

    The first ``=`` separates key and value. A ``=`` at the very start belongs to the key. An error states `form`.

    >>> read_pairs(("top_k=5",), "--option", typed=True)
    {'top_k': 5}

    Raises:
        UsageError: a pair has no ``=``, or a value is no YAML.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair[1:].partition("=")
        if not equals:
            raise click.UsageError(f"{option} takes {form}, not {pair!r}")
        try:
            found[pair[:1] + key] = yaml.safe_load(value) if typed else value
        except yaml.YAMLError as error:
            raise click.UsageError(f"{option} {pair}: {value!r} is no YAML; put quotes around a text") from error
    return found


def _options_of(options: type[Options], but: Collection[str]) -> Iterator[Callable[[Any], Any]]:
    for key, field in options.model_fields.items():
        if key in but:
            continue
        if (inner := _option_class(field)) is not None:
            yield from _options_of(inner, but)
        else:
            yield option_of(options, key)


def _given_to(options: type[Options], given: dict[str, Any], but: Collection[str]) -> dict[str, Any]:
    """Take the values of an option class's flags out of `given`, without those that were not given."""
    values: dict[str, Any] = {}
    for key, field in options.model_fields.items():
        if key in but:
            continue
        if (inner := _option_class(field)) is not None:
            values[key] = inner(**_given_to(inner, given, but))
            continue
        value = given.pop(key)
        if value is None or value == ():
            continue
        if _takes_pairs(field):
            flag = _flag_of(field)
            name, form = f"--{flag.name or key.replace('_', '-')}", flag.metavar or "KEY=VALUE"
            value = read_pairs(value, name, typed=False, form=form)
        values[key] = value
    return values


def _option_class(field: FieldInfo) -> type[Options] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Options) else None


def _flag_of(field: FieldInfo) -> Flag:
    return next((mark for mark in field.metadata if isinstance(mark, Flag)), Flag())


def _takes_pairs(field: FieldInfo) -> bool:
    return _flag_of(field).takes_pairs or get_origin(field.annotation) is Mapping


def _element_of(field: FieldInfo) -> tuple[tuple[Any, list[Any]], bool]:
    """Return the type of one value of a flag with its constraints, and whether the flag may be repeated."""
    annotation, constraints = _alone(field.annotation, field.metadata)
    if _takes_pairs(field):
        return (str, []), True
    if get_origin(annotation) in (tuple, frozenset):
        return _alone(get_args(annotation)[0], []), True
    return (annotation, constraints), False


def _alone(annotation: Any, constraints: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return a type without ``| None`` and without `Annotated`, and its constraints."""
    if get_origin(annotation) in (Union, UnionType):
        others = [kind for kind in get_args(annotation) if kind is not type(None)]
        annotation = others[0] if len(others) == 1 else str  # the class alone reads a value of several types
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        constraints = [*constraints, *more]
    return annotation, list(constraints)


def _type_of(annotation: Any, constraints: Sequence[Any]) -> click.ParamType[Any]:
    """Return the click type that describes and checks a value as the class does."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return click.Choice([member.value for member in annotation])
    if annotation is int:
        above, least = _bound(constraints, "gt"), _bound(constraints, "ge")
        return click.IntRange(min=least if above is None else above + 1, max=_bound(constraints, "le"))
    if annotation is float:
        above, least = _bound(constraints, "gt"), _bound(constraints, "ge")
        open_end, top = above is not None, _bound(constraints, "le")
        return FiniteRange(min=above if open_end else least, max=top, min_open=open_end)
    if annotation is Path:
        kind = next((mark.path_type for mark in constraints if isinstance(mark, PathType)), None)
        return click.Path(exists=kind is not None, file_okay=kind != "dir", dir_okay=kind != "file", path_type=Path)
    return click.STRING


def _bound(constraints: Sequence[Any], name: str) -> Any:
    found = [getattr(mark, name) for mark in constraints if getattr(mark, name, None) is not None]
    return found[0] if found else None


def _sentence(field: FieldInfo, *, repeatable: bool) -> str:
    told = str(field.description)
    end = "" if told.endswith(".") else "."
    return f"{told[:1].upper()}{told[1:]}{end}{' Repeatable.' if repeatable else ''}"
