"""Translate all token ids in a config to the target vocabulary, and record the ids that have no counterpart."""

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
    """The ids under one key that have no counterpart in the target tokenizer."""

    path: Path
    """Path of the key."""
    ids: tuple[int, ...]
    """The lost ids, of the base vocabulary."""
    spellings: tuple[str, ...]
    """Spellings of the base tokens with these ids. Ids without a base token are left out."""
    is_whole: bool
    """Whether the key holds no ids any more."""

    @property
    def key(self) -> str:
        """The path joined with dots, for messages."""
        return ".".join(self.path)

    @property
    def is_expected(self) -> bool:
        """Whether it is a role that a model does not need (bos, pad), so that no warning is needed."""
        return role_of(self.path[-1]) in NO_FALLBACK and self.is_whole

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.ids[:5])) + (", ..." if len(self.ids) > 5 else "")
        spelt = f" ({', '.join(map(repr, self.spellings[:5]))})" if self.spellings else ""
        if self.is_whole:
            return f"{self.key} was {ids}{spelt} in the base model; the target tokenizer has no such token"
        return f"{self.key} loses {ids}{spelt}; the target tokenizer has no such token"


@dataclass(frozen=True)
class Translation:
    """A translated config, with the ids that were lost."""

    config: dict[str, Any]
    """The translated content."""
    lost: tuple[Lost, ...] = ()
    """The ids without a counterpart, by key."""
    places: Mapping[Path, Any] = field(default_factory=dict)
    """Path of a key that holds ids -> its new value. Keys inside lists of configs are left out."""


def warn_of(*translations: Translation) -> None:
    """Log a warning for each lost id. A loss in both config and generation config is reported once."""
    lost = [str(each) for translation in translations for each in translation.lost if not each.is_expected]
    for message in dict.fromkeys(lost):
        LOG.warning("%s", message)


def translate(config: Mapping[str, Any], ids: SpecialIds, foreign: Collection[Path] = ()) -> Translation:
    """Translate the token ids in a config and its nested configs.

    bos, eos and pad become the target tokenizer's. A list of eos ids stays a list. Negative numbers stand for no token,
    and stay. An id without a counterpart becomes None, or is removed from its list. Keys keep their order.

    Args:
        config: the content of a config.json or generation_config.json, or a part of it; not changed.
        ids: translates the ids.
        foreign: paths of nested configs whose ids belong to another vocabulary; they stay as they are.

    Raises:
        TokenAdaptError: a key that holds token ids has a value of another form.
    """
    this_pass = _Pass(ids, frozenset(foreign))
    return Translation(this_pass.section(config, ()), tuple(this_pass.lost), this_pass.places)


def translate_model(config: Mapping[str, Any], ids: SpecialIds, sizes: Collection[Path], num_rows: int) -> Translation:
    """Translate a model's config, and set the new number of rows in it.

    Args:
        config: the content of config.json; not changed.
        ids: translates the ids.
        sizes: paths of the keys that state the number of rows.
        num_rows: rows of the new vocabulary matrices.

    Raises:
        TokenAdaptError: a key that holds token ids has a value of another form.
    """
    translation = translate(config, ids, foreign_sections(config, sizes))
    for path in sizes:
        set_nested(translation.config, ".".join(path), num_rows)
    return translation


@dataclass
class _Pass:
    """The state of one pass over a config: the lost ids and the new values so far."""

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
# Each gets the value, the translation, the key's name, and a list to which it adds the ids without a counterpart.


def _id(old: int, ids: SpecialIds, missing: list[int]) -> int | None:
    """Return the new id of one old id. A negative number stands for no token, and stays."""
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
        if role == "eos" and (also := ids.other_eos(value)) not in (None, new):
            return [new, also]
        return value if new is None and value is not None and value < 0 else new
    own = ids.target.roles.get(role)
    kept = _nested(value, ids, key, missing) or []
    return list(dict.fromkeys(([own] if own is not None else []) + kept)) or None


def _nested(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Translate an id, or lists of ids at any depth. Lost ids are removed from their lists."""
    if isinstance(value, list | tuple):
        return [new for each in value if (new := _nested(each, ids, key, missing)) is not None]
    return None if value is None else _id(value, ids, missing)


def _phrase(value: Any, ids: SpecialIds, missing: list[int]) -> Any:
    """Translate a list of ids, or a list of alternative lists; return None if a token of every alternative is lost."""
    if value and isinstance(value[0], list | tuple):
        return [new for each in value if (new := _phrase(each, ids, missing)) is not None] or None
    new = ids.phrase(value) or [_id(each, ids, missing) for each in value]
    return None if None in new else new


def _phrases(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    return [new for each in value if (new := _phrase(each, ids, missing)) is not None] or None


def _pairs(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Translate the second number of each pair, as in ``[[1, 50259], [2, null]]``."""
    pairs = [[place, None if old is None else _id(old, ids, missing)] for place, old in value]
    kept = [pair for pair, (_, old) in zip(pairs, value, strict=True) if old is None or pair[1] is not None]
    return kept or None


def _biases(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Translate ``[[[5, 6], -1.0]]``, or a mapping whose keys are phrases written as text, ``{"(5, 6)": -1.0}``."""
    if not isinstance(value, Mapping):
        new = [[_phrase(phrase, ids, missing), bias] for phrase, bias in value]
        return [pair for pair in new if pair[0] is not None] or None
    phrases = [(_read_phrase(phrase), bias) for phrase, bias in value.items()]
    new = [[_phrase(phrase, ids, missing), bias] for phrase, bias in phrases]
    # A key in JSON cannot be a phrase, so the result is the list form, which transformers reads, too.
    return [pair for pair in new if pair[0] is not None] or None


def _read_phrase(text: Any) -> list[int]:
    """Return the whole numbers in a text.

    >>> _read_phrase("(5, 61)"), _read_phrase(7)
    ([5, 61], [7])
    """
    return [int(number) for number in re.findall(r"-?\d+", str(text))]


def _named(value: Any, ids: SpecialIds, key: str, missing: list[int]) -> Any:
    """Translate a mapping from names to ids. A name that is its token's spelling becomes the new spelling."""
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
