"""Recognise a model by hashes of its vocabulary tensors.

A manifest records from which model the rows of an output were computed. Config and tokenizer cannot identify it: two
fine-tunes of one model share them. The vocabulary tensors identify it, and are a small part of a large model. A hash
covers a tensor's dtype, shape and bytes, so it stays the same with other shards or another file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.tensor_files import TensorFiles
from mergekit_tokenadapt.storage.tensor_writing import tensor_hash
from mergekit_tokenadapt.tokenizer.files import read_json

HASHES = "vocabulary_tensors"
"""Key in a manifest's ``inputs[n]``, whose value is a mapping: name of a vocabulary tensor -> SHA-256."""


def vocabulary_hashes(folder: Path) -> dict[str, str]:
    """Hash every stored tensor that has an axis of the vocabulary's size.

    The sizes come from config.json and its nested configs (``text_config``). If no tensor has such an axis, all tensors
    are hashed.

    Returns:
        Name -> SHA-256; empty if the folder holds no weights under their usual file names.
    """
    try:
        tensors = TensorFiles(folder)
        sizes = _vocabulary_sizes(read_json(folder / "config.json"))
        names = [name for name in tensors if sizes & set(tensors.shape(name))] or tensors.names
        return {name: tensor_hash(tensors.read(name)) for name in names}
    except TokenAdaptError:
        return {}


def is_described_by(record: Mapping[str, Any], folder: Path) -> bool | None:
    """Check whether `folder` holds the weights of the model that a manifest's ``inputs[n]`` describes.

    Args:
        record: the entry ``inputs[n]`` of a manifest.
        folder: the folder of a model.

    Returns:
        Whether all hashes agree; None if the manifest holds no hashes, as those of earlier versions.
    """
    expected = record.get(HASHES)
    if not isinstance(expected, Mapping) or not expected:
        return None
    try:
        tensors = TensorFiles(folder)
        return all(name in tensors and tensor_hash(tensors.read(name)) == known for name, known in expected.items())
    except TokenAdaptError:
        return False


def _vocabulary_sizes(config: Mapping[str, Any]) -> set[int]:
    """Return all whole numbers under keys such as ``vocab_size`` in a config and its nested configs."""
    sizes = {value for key, value in config.items() if "vocab_size" in key and type(value) is int}
    for nested in config.values():
        if isinstance(nested, Mapping):
            sizes |= _vocabulary_sizes(nested)
    return sizes
