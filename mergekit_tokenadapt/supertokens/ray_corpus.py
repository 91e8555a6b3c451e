"""A corpus that is too large for one machine: a Ray dataset whose blocks are read and counted on the cluster.

Workers encode and count one block at a time. This process adds up the counts in the order of the blocks. The algorithms
are the same as for files, and the result is the same, see `RayCorpus`.
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
from mergekit_tokenadapt.supertokens.texts import Corpus, PartT, Watch, split_text, without_surrogates
from mergekit_tokenadapt.texts.sources import split_settings

if TYPE_CHECKING:
    import pyarrow
    import ray

UNLIMITED = 1 << 62
"""Memory limit for the counts of one block. Blocks are small, so they need no limit."""
RESULT = "result"
"""Column with the pickled result of a block."""
SIZES = ("bytes", "documents")
"""Columns with the size of a block's text."""


class RayCorpus(Corpus):
    """The texts in one column of a Ray dataset. Rows whose value is no text are skipped.

    The learned tokenizer is byte for byte the same as from files with the same documents in the same order, as long as
    the counts fit into memory (`Limits.max_memory`). If they do not fit, rare pairs are removed from memory, and which
    pairs these are depends on the blocks of the dataset. The same blocks always give the same result.

    The first phase of `superwords` (`Limits.words_from`) and the algorithm `chunks` do not run on the cluster. They
    learn from a stream of pieces that this process reads in the dataset's order.

    Args:
        dataset: a `ray.data.Dataset`. To learn from a part of it, give `dataset.limit(...)`.
        field: the column with the texts.
        name: the dataset's name in the manifest and in error messages.
    """

    def __init__(self, dataset: ray.data.Dataset, field: str = "text", name: str = "a Ray dataset") -> None:
        require("ray", extra="ray", wanted_by="text in a Ray dataset")
        super().__init__(())
        self.sources = (f"{name},field={field}",)
        self._dataset = text_column(dataset, field, name)
        self._field = field

    @classmethod
    def read(cls, source: str) -> RayCorpus:
        """Open the corpus that ``ray:PATH`` names; see `open_dataset`.

        Raises:
            TokenAdaptError: Ray is not installed, or it cannot read the files.
        """
        dataset, field = open_dataset(source, "--text")
        return cls(dataset, field, split_settings(source)[0])

    @property
    def size(self) -> int | None:
        """Return None: the size is not known before the dataset is read."""
        return None

    def pieces(self, max_bytes: int = 0) -> Iterator[str]:
        """Yield the text in pieces. This process reads them.

        Args:
            max_bytes: stop after about this many bytes of UTF-8; 0 reads everything.

        Raises:
            TokenAdaptError: there is no text.
        """
        self.num_bytes = self.num_documents = 0
        for table in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for document in _documents(self._field, table):
                self.num_documents += 1
                for piece in split_text(document):
                    self.num_bytes += len(piece.encode("utf-8"))
                    yield piece
                    if max_bytes and self.num_bytes >= max_bytes:
                        return
        self._check_not_empty()

    @contextmanager
    def token_runs(self, encode: Encode, watch: Watch = iter) -> Iterator[TokenRuns]:
        """Encode the corpus on the cluster. The tokens stay in Ray's object store, which spills to the disks of its
        nodes.
        """
        import ray

        encoding = partial(_encoded, ray.put(encode))
        kept = self._dataset.map_batches(partial(_with_pieces, self._field, encoding), **WHOLE_BLOCKS).materialize()
        self._measure(kept)
        yield _EncodedBlocks(kept)

    def counted(self, count: Callable[[Sequence[str]], PartT], watch: Watch = iter) -> Iterator[PartT]:
        """Yield the result of `count` for the pieces of each block, in the order of the blocks. Workers run `count`."""
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
    """A `TokenRuns` whose blocks stay in Ray's object store."""

    blocks: ray.data.Dataset

    def pairs(self, max_pairs: int) -> PairCounts:
        """Count pairs of every block on the cluster, and add them up in this process."""
        return add_pairs(_results(self.blocks.map_batches(_block_pairs, **WHOLE_BLOCKS)), max_pairs)

    def runs(self, pairs: PairCounts, min_frequency: int, max_bytes: int) -> RunCounts:
        """Count runs of every block on the cluster, and add them up in this process."""
        import ray

        count = partial(_block_runs, ray.put(pairs.frequent(min_frequency)), min_frequency)
        return add_runs(_results(self.blocks.map_batches(count, **WHOLE_BLOCKS)), pairs, min_frequency, max_bytes)


WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
"""Arguments of `map_batches`: a function gets each block as one table, which it must not change."""


def _results(dataset: ray.data.Dataset) -> Iterator[Any]:
    """Yield the results of the blocks, in the order of the blocks."""
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for result in table.column(RESULT).to_pylist():
            yield pickle.loads(result)  # `_table` has pickled it on our own workers


# --- on the workers --------------------------------------------------------------------------------


def _documents(field: str, table: pyarrow.Table) -> Iterator[str]:
    """Yield the texts of a block."""
    for chunk in table.column(field).iterchunks():
        for value in chunk:
            text = value.as_py()
            if isinstance(text, str):
                yield without_surrogates(text)


def _with_pieces(field: str, function: Callable[[list[str]], list[Any]], table: pyarrow.Table) -> pyarrow.Table:
    """Apply a function to the pieces of a block. Returns its pickled results and the size of the text."""
    # Ray gives every task one core. Threads of `tokenizers` would compete with the other tasks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    documents = list(_documents(field, table))
    results = function([piece for document in documents for piece in split_text(document)])
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    sizes = {"bytes": num_bytes, "documents": len(documents)}
    return _table(results, **{name: [size] + [0] * (len(results) - 1) for name, size in sizes.items()})


def _table(results: Sequence[Any], **columns: list[int]) -> pyarrow.Table:
    """Return a table with one pickled result a row, and further columns of numbers."""
    import pyarrow

    pickled = pyarrow.array([pickle.dumps(result) for result in results], pyarrow.large_binary())
    return pyarrow.table({RESULT: pickled, **{name: pyarrow.array(c, pyarrow.int64()) for name, c in columns.items()}})


def _encoded(encode: ray.ObjectRef[Encode], pieces: list[str]) -> list[bytes]:
    """Encode the pieces of a block, and pack the batches of tokens."""
    import ray

    stream = ray.get(encode)(iter(pieces))
    return [packed(ids, starts) for ids, starts in stream] or [b""]


def _counted(count: ray.ObjectRef[Callable[[list[str]], Any]], pieces: list[str]) -> list[Any]:
    """Apply the function `count` to the pieces of a block."""
    import ray

    return [ray.get(count)(pieces)]


def _stream(table: pyarrow.Table) -> Iterator[Any]:
    """Yield the batches of a block that `_encoded` has written."""
    for written in table.column(RESULT).to_pylist():
        if batch := pickle.loads(written):
            yield unpacked(batch)


def _block_pairs(table: pyarrow.Table) -> pyarrow.Table:
    """Count the pairs of a block."""
    return _table([count_pairs(_stream(table), UNLIMITED)])


def _block_runs(pairs: ray.ObjectRef[PairCounts], min_frequency: int, table: pyarrow.Table) -> pyarrow.Table:
    """Count the runs of a block."""
    import ray

    return _table([count_runs(_stream(table), ray.get(pairs), min_frequency, UNLIMITED)])
