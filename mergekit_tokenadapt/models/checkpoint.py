"""Describe a checkpoint by its model's class: shapes, missing tensors, and vocabulary tables.

A *table* is a tensor with a vocabulary axis: an embedding, an output matrix, a bias with one entry per token.
"""

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
    """What a model's class tells about a checkpoint from names and shapes alone."""

    loading: Loading
    """How the class loads the checkpoint."""
    tables: VocabularyTables
    """The parameters of the class that have a vocabulary axis."""
    stored: Mapping[str, StoredTable]
    """Stored name -> table of the checkpoint."""
    copies: tuple[Key, ...] = ()
    """Paths of further config keys that repeat the number of rows."""

    @property
    def size_keys(self) -> tuple[Key, ...]:
        """Paths of all config keys that state the number of rows."""
        return (*self.tables.sizes, *self.copies)


def read_checkpoint(folder: Path, shapes: Mapping[str, Shape], *, trust_remote_code: bool = False) -> Checkpoint | None:
    """Describe the checkpoint in `folder`.

    Args:
        folder: the folder of the model, for its config.json.
        shapes: stored name -> shape of each tensor.
        trust_remote_code: whether code from the folder may run.

    Returns:
        The description; None if transformers has no class for the model.

    Raises:
        CannotBuild: the class cannot be built from the config.
        TokenAdaptError: the config does not load, or the purpose of a tensor is not clear.
    """
    model = find_class(folder, trust_remote_code=trust_remote_code)
    if model is None:
        return None
    # A run asks several times about one model, and builds its class several times for each answer: results are kept.
    return _ask(_Question(model.with_any_pad(), str(model.config.to_dict())), tuple(sorted(shapes.items())))


@dataclass(frozen=True)
class _Question:
    """A key for the cache of answers. Two are equal if the class and the content of the config are equal."""

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
