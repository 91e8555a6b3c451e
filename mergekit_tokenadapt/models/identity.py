"""Whether a folder holds the very model that rows were taken from: hashes of its vocabulary tensors.

Config and tokenizer do not tell two models of one architecture apart; the tensors with a vocabulary axis do, and
they are a small part of a large model. A hash is made of a tensor's dtype, shape and bytes, so that the
same model in other shards, or in another file format, is the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import TensorFiles
from mergekit_tokenadapt.storage.tensor_writing import tensor_hash
from mergekit_tokenadapt.tokenizer.files import read_json

HASHES = "vocabulary_tensors"
"""Key of a manifest's ``inputs[n]``: name of each vocabulary tensor, to its SHA-256."""


def vocabulary_hashes(folder: Path) -> dict[str, str]:
    """Name to SHA-256 of every stored tensor with an axis of the vocabulary's size.

    The size is what config.json says, also in its parts (``text_config``). Where no tensor has it, all tensors
    are hashed; where the folder holds no weights under their usual names, the result is empty.
    """
    try:
        tensors = TensorFiles(folder)
        sizes = _vocabulary_sizes(read_json(folder / "config.json"))
        names = [name for name in tensors if sizes & set(tensors.shape(name))] or tensors.names
        return {name: tensor_hash(tensors.read(name)) for name in names}
    except TokenAdaptError:
        return {}


def is_described_by(record: Mapping[str, Any], folder: Path) -> bool | None:
    """Whether `folder` holds the weights of the input model that a manifest's ``inputs[n]`` describes.

    Returns:
        None where the manifest, of an earlier version, holds no hashes.
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
    """All numbers that a config and the configs nested in it keep under a key such as ``vocab_size``."""
    sizes = {value for key, value in config.items() if "vocab_size" in key and type(value) is int}
    for nested in config.values():
        if isinstance(nested, Mapping):
            sizes |= _vocabulary_sizes(nested)
    return sizes
