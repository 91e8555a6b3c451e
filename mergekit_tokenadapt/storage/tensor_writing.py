"""Writing tensors: errors of the disk as errors of the disk, and files that tell whether they were damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SEAL = "sha256"
"""Name of the tensor, uint8 [32], that holds the hash of all others."""
CHUNK_BYTES = 1 << 26
"""Hashed at once: a tensor that is mapped from a file never is in memory as a whole."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it cannot be written. (The library raises an error of its own, which is none.)
    """
    try:
        save_file(dict(tensors), str(file), metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error


def sealed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, made contiguous, and beside them one that holds their hash."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return {**contiguous, SEAL: _hash(contiguous)}


def unsealed(stored: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors that were sealed; None where one of them, or the seal, has changed or is missing."""
    tensors = {name: tensor for name, tensor in stored.items() if name != SEAL}
    is_whole = SEAL in stored and torch.equal(stored[SEAL], _hash(tensors))
    return tensors if is_whole else None


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\0".encode())
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, len(content), CHUNK_BYTES):
        digest.update(content[start : start + CHUNK_BYTES].numpy().data)
    return digest.hexdigest()


def _hash(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensor_hash(tensors[name])}\n".encode())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
