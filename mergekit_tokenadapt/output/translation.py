"""A config in which every token id means the same in the new vocabulary, and what had to be left out of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mergekit_tokenadapt.errors import one_error
from mergekit_tokenadapt.output.configs import Path, foreign_sections, set_nested
from mergekit_tokenadapt.output.id_keys import Shape, role_of, shape_of
from mergekit_tokenadapt.output.ids import NO_FALLBACK, SpecialIds

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """Ids under one key that stand for nothing in the target tokenizer."""

    path: Path
    ids: tuple[int, ...]
    spellings: tuple[str, ...]
    """The base's tokens of these ids, as far as it has any."""
    is_whole: bool
    """Whether nothing is left under the key."""

    @property
    def key(self) -> str:
        """For messages."""
        return ".".join(self.path)

    @property
    def is_expected(self) -> bool:
        """Whether it is a role that a model does without, of which nobody needs to hear."""
        return role_of(self.path[-1]) in NO_FALLBACK and self.is_whole

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.ids[:5])) + (", ..." if len(self.ids) > 5 else "")
        spelt = f" ({', '.join(map(repr, self.spellings[:5]))})" if self.spellings else ""
        if self.is_whole:
            return f"{self.key} was {ids}{spelt} in the base model; the target tokenizer has no such token"
        return f"{self.key} loses {ids}{spelt}; the target tokenizer has no such token"


@dataclass(frozen=True)
class Translation:
    """A translated config."""

    config: dict[str, Any]
    lost: tuple[Lost, ...] = ()
    places: Mapping[Path, Any] = field(default_factory=dict)
    """Where the config holds ids, and what these are now; lists of nested configs aside."""


def warn_of(*translations: Translation) -> None:
    """Say what had to be dropped; once where a config and a generation config lose the same."""
    lost = [str(each) for translation in translations for each in translation.lost if not each.is_expected]
    for message in dict.fromkeys(lost):
        LOG.warning("%s", message)


def translate(config: Mapping[str, Any], ids: SpecialIds, foreign: Collection[Path] = ()) -> Translation:
    """Translate a config, nested ones included; it is not changed, and its keys keep their order.

    bos, eos and pad are what the target tokenizer says. A list of eos ids stays a list. Negative numbers stand
    for no token, and stay. An id that means nothing any more becomes None, or is left out of its list.

    Args:
        config: the content of a config.json, a generation_config.json, or a part of it.
        ids: old ids to new ones.
        foreign: nested configs that number the tokens of another vocabulary; they stay as they are.
    """
    work = _Work(ids, frozenset(foreign))
    return Translation(work.section(config, ()), tuple(work.lost), work.places)


def translate_model(config: Mapping[str, Any], ids: SpecialIds, sizes: Collection[Path], num_rows: int) -> Translation:
    """Translate a model's config, and let it say how many rows there are now.

    Args:
        config: the content of config.json.
        ids: old ids to new ones.
        sizes: the keys that state the number of rows, as paths.
        num_rows: rows of the new matrices.
    """
    translation = translate(config, ids, foreign_sections(config, sizes))
    for path in sizes:
        set_nested(translation.config, ".".join(path), num_rows)
    return translation


@dataclass
class _Work:
    """One pass over a config."""

    ids: SpecialIds
    foreign: frozenset[Path]
    lost: list[Lost] = field(default_factory=list)
    places: dict[Path, Any] = field(default_factory=dict)

    def section(self, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
        return {key: self._value(value, (*path, key)) for key, value in config.items()}

    def _value(self, value: Any, path: Path) -> Any:
        if path in self.foreign:
            return value
        if shape := shape_of(path[-1], value, self.ids.base):
            missing: list[int] = []
            with one_error(f"{'.'.join(path)} does not hold token ids in the way that transformers reads them"):
                new = _TRANSLATORS[shape](value, self.ids, path[-1], missing)
            self._note(path, missing, is_whole=not new)
            self.places[path] = new
            return new
        if isinstance(value, Mapping):
            return self.section(value, path)
        if isinstance(value, list):
            return [self.section(each, path) if isinstance(each, Mapping) else each for each in value]
        return value

    def _note(self, path: Path, missing: Iterable[int], *, is_whole: bool) -> None:
        if unique := tuple(dict.fromkeys(missing)):
            tokens = [self.ids.base.by_id.get(i) for i in unique]
            self.lost.append(Lost(path, unique, tuple(t.spelling for t in tokens if t is not None), is_whole))


# --- one function for each arrangement of ids ----------------------------------------------------
# Each gets the value, the ids, the key's name, and a list that it puts ids into that the target does not have.


def _id(old: int, ids: SpecialIds, missing: list[int]) -> int | None:
    """The new id; negative numbers, which stand for no token, as they are."""
    if old < 0:
        return old
    new = ids.new_id(old)
    if new is None:
        missing.append(old)
    return new


def _role(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    role = role_of(key) or ""
    if not isinstance(value, list | tuple):
        new = ids.in_role(role, value)
        if new is None and value is not None and value >= 0:
            missing.append(value)
        return value if new is None and value is not None and value < 0 else new
    own = ids.target.roles.get(role)
    kept = _nested(value, ids, key, missing) or []
    return list(dict.fromkeys(([own] if own is not None else []) + kept)) or None


def _nested(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """An id, or lists of ids at any depth; lists may become shorter."""
    if isinstance(value, list | tuple):
        return [new for each in value if (new := _nested(each, ids, key, missing)) is not None]
    return None if value is None else _id(value, ids, missing)


def _phrase(value: Any, ids: SpecialIds, missing: list[int]) -> Any:
    """A list of ids, or a list of alternative ones; None where nothing of it can be written any more."""
    if value and isinstance(value[0], list | tuple):
        return [new for each in value if (new := _phrase(each, ids, missing)) is not None] or None
    new = [_id(each, ids, missing) for each in value]
    return None if None in new else new


def _phrases(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    return [new for each in value if (new := _phrase(each, ids, missing)) is not None] or None


def _pairs(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Of ``[[1, 50259], [2, null]]``, the second number of each."""
    pairs = [[place, None if old is None else _id(old, ids, missing)] for place, old in value]
    kept = [pair for pair, (_, old) in zip(pairs, value, strict=True) if old is None or pair[1] is not None]
    return kept or None


def _biases(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """``[[[5, 6], -1.0]]``, or a mapping whose keys are phrases written as text, ``{"(5, 6)": -1.0}``."""
    if not isinstance(value, Mapping):
        new = [[_phrase(phrase, ids, missing), bias] for phrase, bias in value]
        return [pair for pair in new if pair[0] is not None] or None
    phrases = [(_read_phrase(phrase), bias) for phrase, bias in value.items()]
    new = [[_phrase(phrase, ids, missing), bias] for phrase, bias in phrases]
    # transformers reads lists: no mapping in a JSON file can have a phrase for its key.
    return [pair for pair in new if pair[0] is not None] or None


def _read_phrase(text: Any) -> list[int]:
    """The numbers in a text.

    >>> _read_phrase("(5, 61)"), _read_phrase(7)
    ([5, 61], [7])
    """
    return [int(number) for number in re.findall(r"-?\d+", str(text))]


def _named(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Names that are the tokens' own spellings change with them; others stay."""
    result = {}
    for name, old in value.items():
        if (new := _id(old, ids, missing)) is not None:
            result[_respelt(name, old, ids)] = new
    return result


def _respelt(name: str, old: int, ids: SpecialIds) -> str:
    before, after = ids.base.by_id.get(old), ids.new_token(old)
    is_spelling = before is not None and after is not None and name == before.spelling
    return after.spelling if is_spelling and after is not None else name


def _spellings(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    new = [(_id(int(old), ids, missing), int(old)) for old in value]
    return {str(i): _respelt(value[str(old)], old, ids) for i, old in sorted(p for p in new if p[0] is not None)}


def _entries(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    by_id = ids.target.by_id
    return [by_id[i].spelling if i in by_id else f"<unused{i}>" for i in range(ids.target.num_ids)]


_TRANSLATORS: Mapping[Shape, Callable[[Any, SpecialIds, str, list[int]], Any]] = {
    Shape.ROLE: _role,
    Shape.IDS: _nested,
    Shape.PHRASES: _phrases,
    Shape.PAIRS: _pairs,
    Shape.BIASES: _biases,
    Shape.NAMED: _named,
    Shape.SPELLINGS: _spellings,
    Shape.ENTRIES: _entries,
}
