"""The example recipes: the repository's folder ``yaml_recipes/``, which is a part of the installed package, too."""

from __future__ import annotations

from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.plain_words import did_you_mean

PLACES = (Path(__file__).parents[1] / "yaml_recipes", Path(__file__).parents[2] / "yaml_recipes")
"""Folders that may have the recipes: the one of an installed package, and the one of the repository."""


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe. `name` may end in ``.yml``.

    Raises:
        TokenAdaptError: no recipe has that name.
    """
    name, known = name.removesuffix(".yml"), recipe_names()
    if name not in known:
        raise TokenAdaptError(f"there is no recipe {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
    return (_folder() / f"{name}.yml").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """Return the first sentence of a recipe's comment."""
    lines = [line.removeprefix("#").strip() for line in recipe_text(name).splitlines() if line.startswith("#")]
    return " ".join(lines).partition(". ")[0]


def _folder() -> Path:
    for place in PLACES:
        if place.is_dir():
            return place
    raise TokenAdaptError(f"this installation of mergekit-tokenadapt has no recipes: {PLACES[0]} is missing")
