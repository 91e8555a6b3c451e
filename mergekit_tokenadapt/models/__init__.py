"""What a model's own class of transformers says of its checkpoint, asked without loading any weights."""

from mergekit_tokenadapt.models.checkpoint import Checkpoint, read_checkpoint
from mergekit_tokenadapt.models.classes import CannotBuild, Loading, ModelClass, find_class
from mergekit_tokenadapt.models.vocabulary_axes import StoredTable, VocabularyTables, find_tables, stored_tables

__all__ = [
    "CannotBuild",
    "Checkpoint",
    "Loading",
    "ModelClass",
    "StoredTable",
    "VocabularyTables",
    "find_class",
    "find_tables",
    "read_checkpoint",
    "stored_tables",
]
