"""Error messages about wrong keys and values, on one line, with the known names and the nearest one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import pydantic

TAKES: dict[str, Callable[[dict[str, Any]], str]] = {
    "literal_error": lambda context: str(context["expected"]),
    "bool_type": lambda _: "true or false",
    "bool_parsing": lambda _: "true or false",
    "int_type": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a whole number of fewer digits",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "float_parsing": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "string_type": lambda _: "text",
    "mapping_type": lambda _: "keys with values",
    "dict_type": lambda _: "keys with values",
    "model_type": lambda _: "keys with values",
    "greater_than": lambda context: f"a number greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"a number greater than or equal to {context['ge']:g}",
    "less_than": lambda context: f"a number less than {context['lt']:g}",
    "less_than_equal": lambda context: f"a number less than or equal to {context['le']:g}",
}
"""pydantic's error type -> a function from the error's context to what the option takes.

Errors of other types keep pydantic's own words.
"""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known word, or an empty string.

    >>> did_you_mean("metod", ["method", "rows"])
    "; did you mean 'method'?"
    >>> did_you_mean("x", ["method", "rows"])
    ''
    """
    found = get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def describe_errors(error: pydantic.ValidationError, known: Sequence[str] = (), beside: Sequence[str] = ()) -> str:
    """Describe pydantic's errors on one line: the key, what it takes, and the value that was given.

    Args:
        error: the error of one option class.
        known: all keys of that class.
        beside: keys of another class that a recipe may have in the same block.
    """
    unknown: list[str] = []
    by_field: dict[tuple[Any, str], list[Any]] = {}
    for problem in error.errors():
        if problem["type"] == "extra_forbidden":
            unknown.append(str(problem["loc"][-1]))
            continue
        # pydantic reports one error for each type of a union. They concern one value, so they share one sentence.
        by_field.setdefault((problem["loc"][:1], repr(problem["input"])), []).append(problem)
    lines = [_unknown(unknown, known, beside)] if unknown else []
    return "; ".join(lines + [_wrong(problems) for problems in by_field.values()])


def _unknown(words: list[str], known: Sequence[str], beside: Sequence[str]) -> str:
    message = f"unknown option {', '.join(map(repr, words))}"
    message += f"; its options are: {', '.join(known)}" if known else ""
    message += f"; keys of every method: {', '.join(beside)}" if beside else ""
    return message + "".join(did_you_mean(word, [*known, *beside]) for word in words)


def _wrong(problems: list[Any]) -> str:
    first = problems[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    takes = [TAKES[p["type"]](p.get("ctx", {})) for p in problems if p["type"] in TAKES]
    key = ".".join(str(part) for part in (first["loc"] if len(problems) == 1 else first["loc"][:1]))
    if first["type"] == "missing":
        return f"{key} is missing"
    if not takes:
        return f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {first['input']!r}"
    return f"{key}: takes {' or '.join(takes)}, not {first['input']!r}"
