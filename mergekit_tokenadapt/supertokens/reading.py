"""Read a corpus while a progress bar shows the bytes read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.terminal.progress import progress


def with_progress(pieces: Iterator[str], corpus: Corpus, what: str, limits: Limits) -> Iterator[str]:
    """Yield the pieces while a progress bar shows the bytes read and the time left."""
    size = corpus.size
    if what == "words" and size and limits.words_bytes:
        size = min(size, limits.words_bytes)
    with progress(total=size, desc=f"Reading for {what}", unit="B", unit_scale=True, quiet=limits.quiet) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.encode("utf-8")))


def watching(corpus: Corpus, what: str, limits: Limits) -> Callable[[Iterator[str]], Iterator[str]]:
    """Return `with_progress` as a function of the pieces, for a corpus that reads them itself."""
    return lambda pieces: with_progress(pieces, corpus, what, limits)
