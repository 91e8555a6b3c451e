"""The embedded default: character n-grams of the tokens' text. No download, no model.

TF-IDF weights of all n-grams of 1 to 4 characters, reduced to a few hundred dimensions by truncated
singular value decomposition over the two vocabularies at hand. Texts that share rare parts are
close; texts that differ in case or in a leading space only are closest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.threads import one_thread
from mergekit_tokenadapt.terminal.progress import progress

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DIMENSIONS = 256
LONGEST = 4
"""Characters of the longest n-grams."""
SEED = 0
"""Of the randomised decomposition."""
OVERSAMPLES = 10
"""Directions looked at beyond those that are wanted, as in scikit-learn."""
EPSILON = 1e-7
"""Directions whose squared singular value is smaller, against the largest, are rounding noise."""


class NgramSpace(AuxiliarySpace):
    """``auxiliary: ngram`` or ``auxiliary: ngram:DIMENSIONS``."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions

    @classmethod
    def from_argument(cls, argument: str | None) -> NgramSpace:
        """The argument is the number of dimensions."""
        if argument is None:
            return cls()
        if not argument.isdecimal() or int(argument) < 1:
            raise TokenAdaptError(
                f"auxiliary 'ngram:{argument}': give the number of dimensions, for instance ngram:256"
            )
        return cls(int(argument))

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Fit to `texts` and embed them; on the CPU, whatever `device` is."""
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        bar = progress(total=2, desc=f"N-gram space of {len(texts):,} texts", quiet=quiet)
        # An n-gram of one text only cannot make it similar to another: it is left out.
        counts = CountVectorizer(analyzer=ngrams, dtype=np.float32).fit_transform(texts)
        counts = counts[:, np.flatnonzero(counts.getnnz(axis=0) > 1)]
        if not counts.shape[1]:  # no two texts have anything in common
            return torch.zeros(len(texts), 1)
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
        bar.update()
        dimensions = min(self.dimensions, min(weights.shape) - 1)
        # With too little for a decomposition, the weights themselves are the vectors.
        reduced = weights.toarray() if dimensions < 2 else _reduce_alike(weights, dimensions)
        bar.update()
        bar.close()
        return torch.from_numpy(np.ascontiguousarray(reduced, dtype=np.float32))


def _reduce_alike(weights: csr_matrix, dimensions: int) -> np.ndarray:
    """`reduce`, with the same result for any number of threads. Most of it knows only one, anyway."""
    with one_thread():
        return reduce(weights, dimensions)


def reduce(weights: csr_matrix, dimensions: int) -> np.ndarray:
    """Coordinates of the rows along the leading right singular vectors, float32 [rows, at most `dimensions`].

    What scikit-learn's TruncatedSVD gives, but for rounding. It decomposes a dense matrix with a column for every
    n-gram at the end, which takes half its time; the eigenvectors of that matrix' small Gram matrix say the same.
    """
    from sklearn.utils.extmath import randomized_range_finder

    basis = randomized_range_finder(weights, size=dimensions + OVERSAMPLES, n_iter=2, random_state=SEED)
    projected = weights.T @ basis
    squares, vectors = np.linalg.eigh((projected.T @ projected).astype(np.float64))
    leading = np.flatnonzero(squares > EPSILON * squares[-1])[::-1][:dimensions]
    directions = projected @ (vectors[:, leading] / np.sqrt(squares[leading])).astype(np.float32)
    return np.asarray(weights @ directions)


def ngrams(text: str) -> Iterator[str]:
    """The n-grams of a text without its case and leading space, then a mark for each of these.

    >>> sorted(ngrams(" On"))
    ['\\x02', '\\x02o', '\\x02on', '\\x02on\\x03', '\\x03', '\\x1e', '\\x1f', 'n', 'n\\x03', 'o', 'on', 'on\\x03']
    """
    core = text.casefold().strip(" ")
    bounded = f"\x02{core}\x03" if core else text
    for length in range(1, LONGEST + 1):
        for start in range(len(bounded) - length + 1):
            yield bounded[start : start + length]
    if core and text.startswith(" "):
        yield "\x1f"
    if core and text.casefold() != text:
        yield "\x1e"
