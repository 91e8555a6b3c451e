"""Model folders, loading, losses, and the tensors that have a vocabulary axis.

The names below find vocabulary tensors without loading weights. They build the model's class on the meta device.
"""

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
