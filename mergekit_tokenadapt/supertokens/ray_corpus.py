"""Text that is too large for one machine: a dataset of Ray, read and counted where its blocks are.

Encoding and counting run on the cluster, a block of the dataset at a time; the counts of the blocks are added
up here, in the order of the blocks. Nothing else differs from files, and neither does the result: see
`RayCorpus`.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import require
from mergekit_tokenadapt.supertokens.counting import (
    Encode,
    PairCounts,
    RunCounts,
    TokenRuns,
    add_pairs,
    add_runs,
    count_pairs,
    count_runs,
)
from mergekit_tokenadapt.supertokens.learning import packed, unpacked
from mergekit_tokenadapt.supertokens.ray_datasets import open_dataset, text_column
from mergekit_tokenadapt.supertokens.texts import Corpus, PartT, Watch, cut, without_surrogates
from mergekit_tokenadapt.texts.sources import split_settings

if TYPE_CHECKING:
    import pyarrow
    import ray

UNLIMITED = 1 << 62
"""What is counted in one block needs no limit: blocks are small."""
RESULT = "result"
"""Column that holds what a block gave, pickled."""
SIZES = ("bytes", "documents")


class RayCorpus(Corpus):
    """The texts in a column of a Ray dataset. Rows without text there are skipped.

    The learned tokenizer is the same, byte for byte, as from files with the same documents in the same order, as
    long as the counts fit into memory (`Limits.max_memory`): where rare pairs have to be forgotten, it depends on
    how the dataset is cut into blocks, which pairs these are. The same blocks always give the same result.
    Words (`Limits.words_from`), and the chunks algorithm, are learned from a stream of pieces that this
    process reads in the dataset's order.

    Args:
        dataset: `ray.data.Dataset`. To learn from a part of it, give `dataset.limit(...)`.
        field: the column.
        name: what to call it in the manifest.
    """

    def __init__(self, dataset: ray.data.Dataset, field: str = "text", name: str = "a Ray dataset") -> None:
        require("ray", extra="ray", wanted_by="text in a Ray dataset")
        super().__init__(())
        self.sources = (f"{name},field={field}",)
        self._dataset = text_column(dataset, field, name)
        self._field = field

    @classmethod
    def read(cls, source: str) -> RayCorpus:
        """The corpus that ``ray:PATH`` names; see `open_dataset`.

        Raises:
            TokenAdaptError: Ray is not installed, or cannot read this.
        """
        dataset, field = open_dataset(source, "--text")
        return cls(dataset, field, split_settings(source)[0])

    @property
    def size(self) -> int | None:
        """Not known before reading."""
        return None

    def pieces(self, max_bytes: int = 0) -> Iterator[str]:
        """The text in pieces, read by this process.

        Raises:
            TokenAdaptError: there is no text.
        """
        self.num_bytes = self.num_documents = 0
        for table in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for document in _documents(self._field, table):
                self.num_documents += 1
                for piece in cut(document):
                    self.num_bytes += len(piece.encode("utf-8"))
                    yield piece
                    if max_bytes and self.num_bytes >= max_bytes:
                        return
        self._check_not_empty()

    @contextmanager
    def token_runs(self, encode: Encode, watch: Watch = iter) -> Iterator[TokenRuns]:
        """The corpus in tokens, kept in the cluster's object store, which spills to its disks."""
        import ray

        encoding = partial(_encoded, ray.put(encode))
        kept = self._dataset.map_batches(partial(_with_pieces, self._field, encoding), **WHOLE_BLOCKS).materialize()
        self._measure(kept)
        yield _EncodedBlocks(kept)

    def counted(self, count: Callable[[Sequence[str]], PartT], watch: Watch = iter) -> Iterator[PartT]:
        """What `count` makes of the pieces of each block, on the cluster, in the order of the blocks."""
        import ray

        counting = partial(_counted, ray.put(count))
        kept = self._dataset.map_batches(partial(_with_pieces, self._field, counting), **WHOLE_BLOCKS).materialize()
        self._measure(kept)
        yield from _results(kept)

    def _measure(self, kept: ray.data.Dataset) -> None:
        self.num_bytes = self.num_documents = 0
        for table in kept.select_columns(list(SIZES)).iter_batches(batch_size=None, batch_format="pyarrow"):
            self.num_bytes += sum(table.column("bytes").to_pylist())
            self.num_documents += sum(table.column("documents").to_pylist())
        self._check_not_empty()

    def _check_not_empty(self) -> None:
        if not self.num_bytes:
            raise TokenAdaptError(f"there is no text in {self.sources[0]}: nothing can be learned from it")


@dataclass(frozen=True)
class _EncodedBlocks:
    """`TokenRuns` of a dataset in which each block's stream is kept."""

    blocks: ray.data.Dataset

    def pairs(self, max_pairs: int) -> PairCounts:
        """Count pairs in every block, and add them up here."""
        return add_pairs(_results(self.blocks.map_batches(_block_pairs, **WHOLE_BLOCKS)), max_pairs)

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """Count runs in every block, and add them up here."""
        import ray

        count = partial(_block_runs, ray.put(pairs.frequent(min_frequency)), min_frequency)
        return add_runs(_results(self.blocks.map_batches(count, **WHOLE_BLOCKS)), pairs, min_frequency, max_bytes)


WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
"""Every block goes to a function as one table, which is not changed."""


def _results(dataset: ray.data.Dataset) -> Iterator[Any]:
    """What the blocks gave, in their order."""
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for result in table.column(RESULT).to_pylist():
            yield pickle.loads(result)


# --- on the workers --------------------------------------------------------------------------------


def _documents(field: str, table: pyarrow.Table) -> Iterator[str]:
    """The texts of a block."""
    for chunk in table.column(field).iterchunks():
        for value in chunk:
            text = value.as_py()
            if isinstance(text, str):
                yield without_surrogates(text)


def _with_pieces(field: str, function: Callable[[list[str]], list[Any]], table: pyarrow.Table) -> pyarrow.Table:
    """What a function makes of the pieces of a block, and how much text that was."""
    # Ray gives every task one core: the threads of `tokenizers` would take those of the others.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    documents = list(_documents(field, table))
    results = function([piece for document in documents for piece in cut(document)])
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    sizes = {"bytes": num_bytes, "documents": len(documents)}
    return _table(results, **{name: [size] + [0] * (len(results) - 1) for name, size in sizes.items()})


def _table(results: Sequence[Any], **columns: list[int]) -> pyarrow.Table:
    import pyarrow

    pickled = pyarrow.array([pickle.dumps(result) for result in results], pyarrow.large_binary())
    return pyarrow.table({RESULT: pickled, **{name: pyarrow.array(c, pyarrow.int64()) for name, c in columns.items()}})


def _encoded(encode: ray.ObjectRef[Encode], pieces: list[str]) -> list[bytes]:
    import ray

    stream = ray.get(encode)(iter(pieces))
    return [packed(ids, starts) for ids, starts in stream] or [b""]


def _counted(count: ray.ObjectRef[Callable[[list[str]], Any]], pieces: list[str]) -> list[Any]:
    import ray

    return [ray.get(count)(pieces)]


def _stream(table: pyarrow.Table) -> Iterator[Any]:
    """The stream that `_encoded` kept of a block."""
    for written in table.column(RESULT).to_pylist():
        if batch := pickle.loads(written):
            yield unpacked(batch)


def _block_pairs(table: pyarrow.Table) -> pyarrow.Table:
    return _table([count_pairs(_stream(table), UNLIMITED)])


def _block_runs(pairs: ray.ObjectRef[PairCounts], min_frequency: int, table: pyarrow.Table) -> pyarrow.Table:
    import ray

    return _table([count_runs(_stream(table), ray.get(pairs), min_frequency, UNLIMITED)])
