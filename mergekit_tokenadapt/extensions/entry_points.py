"""Find methods and auxiliary spaces, ours and other packages', through Python's entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.terminal.plain_words import did_you_mean

METHODS = "mergekit_tokenadapt.methods"
"""Entry-point group of methods."""
AUXILIARY = "mergekit_tokenadapt.auxiliary"
"""Entry-point group of auxiliary spaces."""

KindT = TypeVar("KindT")


def names(group: str) -> list[str]:
    """Return the names that are registered in an entry-point group, sorted.

    Raises:
        TokenAdaptError: two packages register one name.
    """
    return sorted(_entries(group))


def load(group: str, name: str, kind: type[KindT]) -> type[KindT]:
    """Import the class that is registered under a name.

    Args:
        group: the entry-point group, `METHODS` or `AUXILIARY`.
        name: the name.
        kind: the base class that the class must have.

    Raises:
        TokenAdaptError: the name is not registered, the import fails, the object is not a subclass of `kind`, or two
            packages register one name.
    """
    what = group.rsplit(".", 1)[-1].removesuffix("s")
    entry = _entries(group).get(name)
    if entry is None:
        raise TokenAdaptError(
            f"unknown {what} {name!r}; installed: {', '.join(names(group))}{did_you_mean(name, names(group))}"
        )
    try:
        found = entry.load()
    except Exception as error:  # importing a module runs its code, which may raise anything
        raise TokenAdaptError(f"the {what} {name!r} ({entry.value}) cannot be imported: {first_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise TokenAdaptError(f"the {what} {name!r} ({entry.value}) is not a subclass of {kind.__name__}")
    return found


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    # The order of installed packages differs between machines. Sorting makes the error message the same everywhere.
    for entry in sorted(entry_points(group=group), key=lambda e: (e.name, e.value)):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise TokenAdaptError(f"two packages register {entry.name!r} in {group}: {known.value} and {entry.value}")
    return found
