"""The default auxiliary space: character n-grams of token texts. It needs no model and no download.

The vector of a text holds the TF-IDF weights of its n-grams of 1 to 4 characters, reduced to a few hundred dimensions
by a truncated singular value decomposition over the texts of both vocabularies. Texts that share rare n-grams are near
each other. Texts that differ only in case or in the white space around them have the same vector.
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
"""Default number of dimensions."""
LONGEST = 4
"""Number of characters of the longest n-grams."""
SEED = 0
"""Seed of the randomised decomposition. A fixed seed makes the vectors reproducible."""
OVERSAMPLES = 10
"""Number of random directions beyond the wanted ones (scikit-learn's default). They make the wanted ones accurate."""
EPSILON = 1e-7
"""Smallest squared singular value that is kept, relative to the largest. Directions below it are rounding noise."""


class NgramSpace(AuxiliarySpace):
    """Character n-grams of the token texts: ``ngram``, or ``ngram:DIMENSIONS``."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions

    @classmethod
    def from_argument(cls, argument: str | None) -> NgramSpace:
        """Construct the space from the number of dimensions as text; None gives the default.

        Raises:
            TokenAdaptError: the argument is not a positive whole number.
        """
        if argument is None:
            return cls()
        if not argument.isdecimal() or int(argument) < 1:
            raise TokenAdaptError(
                f"auxiliary 'ngram:{argument}': give the number of dimensions, for instance ngram:256"
            )
        return cls(int(argument))

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Fit the space to `texts` and embed them, float32 [len(texts), dimensions].

        It runs on the CPU, so `device` is not used. With few texts, the result has fewer dimensions.
        """
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        bar = progress(total=2, desc=f"N-gram space of {len(texts):,} texts", quiet=quiet)
        # An n-gram that occurs in one text only makes no two texts similar, so its column is dropped.
        counts = CountVectorizer(analyzer=ngrams, dtype=np.float32).fit_transform(texts)
        counts = counts[:, np.flatnonzero(counts.getnnz(axis=0) > 1)]
        if not counts.shape[1]:  # no two texts have anything in common
            return torch.zeros(len(texts), 1)
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
        bar.update()
        dimensions = min(self.dimensions, min(weights.shape) - 1)
        # A decomposition needs at least 2 dimensions. With fewer, the weights themselves are the vectors.
        reduced = weights.toarray() if dimensions < 2 else _reduce_alike(weights, dimensions)
        bar.update()
        bar.close()
        return torch.from_numpy(np.ascontiguousarray(reduced, dtype=np.float32))


def _reduce_alike(weights: csr_matrix, dimensions: int) -> np.ndarray:
    """Run `reduce` on one thread, so that the result does not depend on the number of threads.

    This costs little time: the sparse products, which take most of it, use one thread anyway.
    """
    with one_thread():
        return reduce(weights, dimensions)


def reduce(weights: csr_matrix, dimensions: int) -> np.ndarray:
    """Return coordinates of the rows along the leading right singular vectors, float32 [rows, at most `dimensions`].

    The result equals that of scikit-learn's TruncatedSVD up to rounding, in about half the time. TruncatedSVD ends with
    the SVD of a dense matrix that has one column per n-gram. The eigenvectors of the small Gram matrix of that matrix
    give the same directions.
    """
    from sklearn.utils.extmath import randomized_range_finder

    basis = randomized_range_finder(weights, size=dimensions + OVERSAMPLES, n_iter=2, random_state=SEED)
    projected = weights.T @ basis
    squares, vectors = np.linalg.eigh((projected.T @ projected).astype(np.float64))
    leading = np.flatnonzero(squares > EPSILON * squares[-1])[::-1][:dimensions]
    directions = projected @ (vectors[:, leading] / np.sqrt(squares[leading])).astype(np.float32)
    return np.asarray(weights @ directions)


def ngrams(text: str) -> Iterator[str]:
    """Yield the n-grams of a text, without its case and the white space around it.

    The characters ``\\x02`` and ``\\x03`` mark start and end of the text, so that prefixes and suffixes differ from
    the same characters inside a text. A text of white space alone keeps all its characters.

    No n-gram stands for what is left out. It would be frequent, so it would have a large share in the few dimensions of
    the space, and a short text such as ``:`` would be far from ``:`` with a line end.

    >>> sorted(ngrams(" On"))
    ['\\x02', '\\x02o', '\\x02on', '\\x02on\\x03', '\\x03', 'n', 'n\\x03', 'o', 'on', 'on\\x03']
    """
    core = text.casefold().strip()
    bounded = f"\x02{core}\x03" if core else text
    for length in range(1, LONGEST + 1):
        for start in range(len(bounded) - length + 1):
            yield bounded[start : start + length]
