"""A calibration text that is a Ray dataset: passages are chosen, and read with the models, on the cluster.

Ray is imported where it is used: it is an optional package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from mergekit_tokenadapt.texts import cut_passages
from mergekit_tokenadapt.texts.ray_datasets import text_column

if TYPE_CHECKING:
    import pyarrow
    import ray

Shard = dict[str, Tensor]


class ReadsShards(Protocol):
    """Two models and a text, ready to be read."""

    def shard(self, places: range) -> Shard:
        """What reading some passages gives."""


class BlockTexts:
    """The texts in a column of a dataset, block by block: `Texts` of which only numbers come here."""

    def __init__(self, dataset: ray.data.Dataset, field: str) -> None:
        import ray

        self._field = field
        self._blocks = text_column(dataset, field, "the Ray dataset").materialize().to_arrow_refs()
        self._run = ray.remote(_on_block)

    def num_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(self._of_all(_num_bytes))

    def passages(self, longest: int, choose: Callable[[int, int], Sequence[int]]) -> list[str]:
        """Some of the passages of at most `longest` bytes.

        Args:
            longest: see `cut_passages`.
            choose: number and bytes of all passages to the places of those wanted, ascending.
        """
        sizes = self._of_all(_passage_sizes, longest)
        chosen = choose(sum(number for number, _ in sizes), sum(size for _, size in sizes))
        wanted, first = [], 0
        for number, _ in sizes:
            wanted.append([place - first for place in chosen if first <= place < first + number])
            first += number
        return [p for part in self._of_all(_chosen_passages, longest, each=wanted) for p in part]

    def _of_all(self, function: Callable[..., Any], *args: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """What a function makes of every block, in their order."""
        import ray

        own = [()] * len(self._blocks) if each is None else [(value,) for value in each]
        tasks = [
            self._run.remote(function, self._field, block, *args, *more)
            for block, more in zip(self._blocks, own, strict=True)
        ]
        return list(ray.get(tasks))


@contextmanager
def reading_on_cluster(
    open_reading: Callable[[], AbstractContextManager[ReadsShards]],
    shards: Sequence[range],
    num_workers: int,
    *,
    gpus: bool,
) -> Iterator[Callable[[range], Shard]]:
    """Workers that read shards; gives a function from a shard's places to what it gave.

    Args:
        open_reading: makes what reads them, in each worker; the model's folder must be there.
        shards: those that will be asked for, in this order.
        num_workers: each holds a model of its own.
        gpus: whether each needs a GPU.
    """
    import ray

    cores = int(ray.cluster_resources().get("CPU", 1))
    options = {"num_cpus": max(1, cores // num_workers), "num_gpus": int(gpus)}
    given = ray.put(open_reading)
    workers = [ray.remote(**options)(_Worker).remote(given) for _ in range(min(num_workers, len(shards)))]
    tasks = {places: workers[n % len(workers)].shard.remote(places) for n, places in enumerate(shards)}
    try:
        yield lambda places: ray.get(tasks.pop(places))
    finally:
        for worker in workers:
            ray.kill(worker)


# --- on the workers --------------------------------------------------------------------------------


class _Worker:
    def __init__(self, open_reading: Callable[[], AbstractContextManager[ReadsShards]]) -> None:
        self._stack = ExitStack()
        self._reading = self._stack.enter_context(open_reading())

    def shard(self, places: range) -> Shard:
        return self._reading.shard(places)


def _on_block(function: Callable[..., Any], field: str, block: pyarrow.Table, *args: Any) -> Any:
    texts = [text for text in block.column(field).to_pylist() if isinstance(text, str) and text]
    return function(texts, *args)


def _num_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)


def _passages(texts: Sequence[str], longest: int) -> list[str]:
    return [passage for text in texts for passage in cut_passages(text, longest)]


def _passage_sizes(texts: Sequence[str], longest: int) -> tuple[int, int]:
    passages = _passages(texts, longest)
    return len(passages), _num_bytes(passages)


def _chosen_passages(texts: Sequence[str], longest: int, places: Sequence[int]) -> list[str]:
    passages = _passages(texts, longest)
    return [passages[place] for place in places]
