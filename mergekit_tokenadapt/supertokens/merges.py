"""The merges of a BPE model, as its definition lists them."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_tokenadapt.tokenizer.vocabulary import Definition


def merges_of(definition: Definition) -> Iterator[tuple[str, str]]:
    """Yield the merges of a BPE model in their order."""
    for merge in definition["model"].get("merges") or ():
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right
