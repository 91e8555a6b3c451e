"""Write tensors into safetensors files, with disk errors as ``OSError`` and with a hash that reveals damage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SEAL = "sha256"
"""Name of the tensor, uint8 [32], that holds the SHA-256 of all other tensors of a file."""
CHUNK_BYTES = 1 << 26
"""Bytes hashed at a time, 64 MiB: a tensor that is mapped from a file is never in memory as a whole."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Args:
        tensors: name -> contiguous tensor.
        file: where to write.
        metadata: text entries for the file's header.

    Raises:
        OSError: the file cannot be written. (The library's own ``SafetensorError`` is no ``OSError``.)
    """
    try:
        save_file(dict(tensors), str(file), metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error


def sealed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the tensors contiguous, and add a tensor named `SEAL` that holds their hash."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return {**contiguous, SEAL: _hash(contiguous)}


def unsealed(stored: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors without the seal; None if a tensor or the seal is missing or has changed."""
    tensors = {name: tensor for name, tensor in stored.items() if name != SEAL}
    is_whole = SEAL in stored and torch.equal(stored[SEAL], _hash(tensors))
    return tensors if is_whole else None


def tensor_hash(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and bytes, as 64 hexadecimal digits."""
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
