"""One model's checkpoint as its class sees it: shapes, what is missing, and which tensors are tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mergekit_tokenadapt.models.classes import Loading, ModelClass, Shape, find_class
from mergekit_tokenadapt.models.vocabulary_axes import (
    Key,
    StoredTable,
    VocabularyTables,
    copies_of_sizes,
    find_tables,
    stored_tables,
)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without its weights."""

    loading: Loading
    """What the class makes of it."""
    tables: VocabularyTables
    """The class's tables."""
    stored: Mapping[str, StoredTable]
    """The checkpoint's tables, by stored name."""
    copies: tuple[Key, ...] = ()
    """Keys of the config that repeat the number of rows, as paths."""

    @property
    def size_keys(self) -> tuple[Key, ...]:
        """All keys of the config that say how many rows there are, as paths."""
        return (*self.tables.sizes, *self.copies)


def read_checkpoint(folder: Path, shapes: Mapping[str, Shape], *, trust_remote_code: bool = False) -> Checkpoint | None:
    """Ask the class of the model in `folder` about tensors of these shapes; None where transformers has none for it.

    Raises:
        CannotBuild: the class cannot be built from the config.
        TokenAdaptError: the config does not load, or it is not clear what a tensor is.
    """
    model = find_class(folder, trust_remote_code=trust_remote_code)
    if model is None:
        return None
    # One model is asked about several times in a run, and many times where several are made of it.
    return _ask(_Question(model.with_any_pad(), str(model.config.to_dict())), tuple(sorted(shapes.items())))


@dataclass(frozen=True)
class _Question:
    """A model's class, equal to another one where the class and the content of the config are."""

    model: ModelClass
    config: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, str]:
        return self.model.model_class, self.config


@lru_cache(maxsize=16)
def _ask(question: _Question, shapes: tuple[tuple[str, Shape], ...]) -> Checkpoint:
    model, by_name = question.model, dict(shapes)
    loading = model.load(by_name)
    tables = find_tables(model, loading)
    copies = copies_of_sizes(model, loading, tables)
    return Checkpoint(loading, tables, stored_tables(model, tables, by_name, loading), copies)
