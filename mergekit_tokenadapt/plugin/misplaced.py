"""Find recipes whose ``adapt`` block mergekit would ignore: it silently ignores every key that it does not know."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from mergekit.config import MergeConfiguration
from mergekit.tokenizer.config import TokenizerConfig

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.plain_words import did_you_mean
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

LOG = logging.getLogger(__name__)

PLACE = ("tokenizer", "adapt")
"""Path of the block in a recipe."""
OPAQUE = frozenset({"parameters", "tokens"})
"""Keys of recipes below which users choose names, which may be `adapt`."""
NAMED = frozenset({"modules"})
"""Keys of recipes whose own keys are names, with parts of recipes below them."""
STOCK = frozenset({*MergeConfiguration.model_fields, *TokenizerConfig.model_fields})
"""Keys that mergekit knows. Activation does not change them, because `adapt` is a field of our subclass."""
OURS = frozenset(AdaptConfig.model_fields) - STOCK
"""Keys of the ``adapt`` block that have no meaning anywhere else in a recipe."""
NEAR = 0.72
"""Least similarity of a misspelt ``adapt``.

`adpt`, `adatp`, `adopt` and `adept` have more, and `adam` has less.
"""


def check_recipe(recipe: object) -> None:
    """Check that mergekit would not ignore an ``adapt`` block in a recipe.

    Other unknown keys stay allowed if they do not resemble ours. In the tokenizer block they cause a warning.

    Raises:
        TokenAdaptError: the block's key is misspelt or in the wrong place, the block is empty, or there is an unknown
            key beside it.
    """
    if not isinstance(recipe, Mapping):
        return
    # With YAML anchors, the block that mergekit reads may also stand elsewhere.
    tokenizer = recipe.get("tokenizer")
    block = tokenizer.get("adapt") if isinstance(tokenizer, Mapping) else None
    used = {id(part) for part in (tokenizer, block) if part is not None}
    elsewhere = {key: value for key, value in recipe.items() if key != "tokenizer"}
    for path in (*_find_blocks(elsewhere, (), used), *find_blocks({"tokenizer": tokenizer})):
        if path != PLACE:
            meant = "adapt" if path[:-1] == PLACE[:1] else ".".join(PLACE)
            raise TokenAdaptError(
                f"{'.'.join(path)}: mergekit knows no such key and would ignore it; did you mean {meant}?"
            )
    if isinstance(recipe.get("tokenizer"), Mapping):
        _check_tokenizer(recipe["tokenizer"])


def check_no_block(recipe: object, command: str) -> None:
    """Check that a recipe for a command that cannot adapt has no ``adapt`` block.

    Raises:
        TokenAdaptError: there is an ``adapt`` block somewhere in the recipe.
    """
    for path in find_blocks(recipe):
        raise TokenAdaptError(
            f"{command} would ignore {'.'.join(path)}: it cannot give models another tokenizer. First run "
            "mergekit-tokenadapt transplant MODEL TOKENIZER OUT for each model, and name the results in this recipe"
        )


def find_blocks(recipe: object) -> Iterator[tuple[str, ...]]:
    """Yield the path of each ``adapt`` block in a recipe, correctly written or not."""
    yield from _find_blocks(recipe, (), set())


def _find_blocks(part: object, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, ...]]:
    # YAML aliases can make a few lines expand without limit, or contain themselves. Each part is visited once.
    if id(part) in seen or not isinstance(part, Mapping | list | tuple):
        return
    seen.add(id(part))
    items = part.items() if isinstance(part, Mapping) else enumerate(part)
    for key, inner in items:
        here = (*path, str(key))
        if id(inner) in seen:
            continue
        if isinstance(part, Mapping) and not NAMED.intersection(path[-1:]) and _is_meant(here, inner):
            yield here
        elif key not in OPAQUE:
            yield from _find_blocks(inner, here, seen)


def _is_meant(path: tuple[str, ...], value: object) -> bool:
    """Return whether the key at the end of a path is probably meant to be ``adapt``."""
    key = path[-1].lower()
    if path[-1] in STOCK:
        return False
    words = re.findall(r"[a-z]+", key)
    if "adapt" in words:
        return True
    is_in_tokenizer = path[:-1] == PLACE[:1]
    has_our_keys = isinstance(value, Mapping) and not OURS.isdisjoint(value)
    if any("adapt" in word or SequenceMatcher(None, word, "adapt").ratio() >= NEAR for word in words):
        return is_in_tokenizer or has_our_keys  # other tools have keys like `adapter`
    return is_in_tokenizer and has_our_keys


def _check_tokenizer(block: Mapping[str, Any]) -> None:
    """Check the keys of mergekit's tokenizer block.

    Raises:
        TokenAdaptError: the ``adapt`` block is empty, a key belongs into it, or there is an unknown key beside it.
    """
    if "adapt" in block and block["adapt"] is None:
        raise TokenAdaptError("tokenizer.adapt is empty: write `adapt: {}` for its defaults, or take it out")
    known = [*TokenizerConfig.model_fields, "adapt"]
    for key in map(str, block):
        if key in known:
            continue
        if key in OURS or (key in AdaptConfig.model_fields and "adapt" in block):
            raise TokenAdaptError(f"tokenizer.{key}: mergekit would ignore it; it is a key of tokenizer.adapt")
        says = f"tokenizer.{key}: mergekit knows no such key and ignores it; known are {', '.join(known)}"
        says += did_you_mean(key, known)
        if "adapt" in block:
            raise TokenAdaptError(says)
        LOG.warning("%s", says)
