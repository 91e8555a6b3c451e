"""Cache the vectors of embedding models on disk, because embedding a vocabulary takes minutes.

The cache holds one safetensors file for each pair of an embedding model and a list of texts; its name is a hash of
both. A second run of the same job therefore reads exactly the bytes that the first run computed. A cache with one entry
per text would not be deterministic: the last bits of a vector depend on the batch that it was computed in. While a run
computes vectors it keeps them in shards. The texts of each shard are fixed, so a resumed run gets the same batches.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.storage.input_files import SUFFIXES, check_plain
from mergekit_tokenadapt.storage.shards import cache_folder, read_sealed, resumed, shard_folder
from mergekit_tokenadapt.storage.tensor_writing import save_tensors, sealed

LOG = logging.getLogger(__name__)

SHARD = 16384
"""Number of texts in a shard on disk. A stopped run loses at most one shard."""


class CachedSpace(AuxiliarySpace):
    """An auxiliary space of an embedding model whose vectors are cached.

    Args:
        name: the folder or hub id of the model, as the user wrote it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def compute(self, folder: Path, texts: Sequence[str], *, device: torch.device, quiet: bool) -> Tensor:
        """Embed texts with the embedding model.

        Args:
            folder: the folder of the model.
            texts: the texts.
            device: where to compute.
            quiet: show no progress.

        Returns:
            One vector per text, float32 [len(texts), dimensions], on any device.
        """

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Read the vectors from the cache, or compute and store them. Several processes may share the cache.

        Raises:
            TokenAdaptError: the model cannot be found or loaded.
        """
        folder = find_model_folder(self.name)
        file = cache_folder() / f"{_key(type(self).__name__, folder, texts)}.safetensors"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{file}.lock")
            lock.acquire()
        except OSError as error:
            LOG.warning("embeddings are not cached: %s", error)  # for instance a read-only home folder
            return self._in_shards(folder, texts, None, device=device, quiet=quiet)
        try:
            if (known := _read(file, len(texts))) is not None:
                return known
            with shard_folder(file.stem) if len(texts) > SHARD else nullcontext() as shards:
                vectors = self._in_shards(folder, texts, shards, device=device, quiet=quiet)
                _write(file, vectors)
            return vectors
        finally:
            lock.release()

    def _in_shards(
        self, folder: Path, texts: Sequence[str], shards: Path | None, *, device: torch.device, quiet: bool
    ) -> Tensor:
        """Embed all texts, float32 [len(texts), dimensions], on the CPU.

        Texts are sorted by length, so that the texts of a shard have similar lengths and need little padding.
        """
        order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
        parts = []
        for start in range(0, max(1, len(order)), SHARD):
            shard = [texts[n] for n in order[start : start + SHARD]]

            def make(shard: list[str] = shard) -> dict[str, Tensor]:
                with one_error(f"auxiliary {self.name!r} cannot embed the texts"):
                    vectors = self.compute(folder, shard, device=device, quiet=quiet)
                return {"vectors": vectors.float().cpu().contiguous()}

            parts.append(resumed(shards, f"{start:08d}", make)["vectors"])
        vectors = torch.cat(parts)
        return torch.empty_like(vectors).index_copy_(0, torch.tensor(order, dtype=torch.int64), vectors)


def find_model_folder(name: str) -> Path:
    """Return the folder of an embedding model. A hub id is downloaded.

    Raises:
        TokenAdaptError: the name is neither a folder nor a hub id that can be downloaded.
    """
    if Path(name).is_dir():
        check_plain(Path(name))
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        # Only safetensors: pickles may run code, and other formats of the same weights are not needed.
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except Exception as error:
        reason = first_line(error)
        raise TokenAdaptError(f"auxiliary {name!r} is not a folder, and could not be fetched: {reason}") from error


def _key(kind: str, folder: Path, texts: Sequence[str]) -> str:
    # The size of a shard belongs to the key: it decides the batches, and these decide the last bits of a vector.
    digest = hashlib.sha256(f"{kind} in sealed shards of {SHARD}".encode())
    for file in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    for text in texts:
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40]


def _read(file: Path, num_texts: int) -> Tensor | None:
    if not file.is_file():
        return None
    vectors = (read_sealed(file) or {}).get("vectors")
    if vectors is None or len(vectors) != num_texts:
        LOG.warning("the cached embeddings in %s are damaged, computing them again", file)
        return None
    return vectors


def _write(file: Path, vectors: Tensor) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_tensors(sealed({"vectors": vectors}), Path(temporary))
        os.replace(temporary, file)
    except OSError as error:
        LOG.warning("embeddings are not cached: %s", error)
        with suppress(OSError):
            os.unlink(temporary)
