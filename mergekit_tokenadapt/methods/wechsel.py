"""WECHSEL: rows of the nearest old tokens by word vectors of two languages (arXiv 2112.06598)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt

from mergekit_tokenadapt.auxiliary.word_vectors import MOST_WORDS, WordVectors, open_word_vectors, token_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.dictionary import read_dictionary, rotation
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.method import LEAST_TEMPERATURE, OF_TOKENS
from mergekit_tokenadapt.transfer.neighbours import nearest
from mergekit_tokenadapt.transfer.transfer import Transfer
from mergekit_tokenadapt.transfer.vector_method import VectorMethod


class Wechsel(VectorMethod):
    """Weigh the `top_k` old tokens whose vectors are nearest to the new token's, in a space of two languages.

    Vectors of old tokens are made from word vectors of the base model's language, those of new tokens from word vectors
    of the target's language (see `token_vectors`). With the cosine similarity a_i: ``w = softmax(a / temperature)``;
    row = ``sum_i w_i E[i]``.
    """

    summary: ClassVar[str] = "weighted mean of the rows of the nearest old tokens, by word vectors of two languages"
    source: ClassVar[str] = "WECHSEL: Minixhofer et al., arXiv 2112.06598"

    base_vectors: str = Field(description="file of word vectors in the language of the base model")
    target_vectors: str = Field(description="file of word vectors in the language of the target tokenizer")
    dictionary: str | None = Field(
        default=None,
        description="file with a word of the base's language, a tab and its translation on each line, by which word "
        "vectors that share no space are aligned",
    )
    top_k: Annotated[int, OF_TOKENS] = Field(default=10, ge=1, description="neighbours of a new token")
    temperature: float = Field(
        default=0.1, ge=LEAST_TEMPERATURE, description="below 1 sharpens the weights, above 1 flattens them"
    )
    words: PositiveInt = Field(default=MOST_WORDS, description="words to read of each file, the most frequent ones")

    @property
    def files(self) -> Mapping[str, str]:
        """The word vectors and the dictionary."""
        found = {"base_vectors": self.base_vectors, "target_vectors": self.target_vectors}
        return found | ({"dictionary": self.dictionary} if self.dictionary is not None else {})

    def check(self, num_tokens: int) -> None:
        """See `Method.check`. Refuse files that are no word vectors or have different dimensions, too.

        Raises:
            TokenAdaptError: a file is missing or of no known format, or the dimensions differ.
        """
        super().check(num_tokens)
        self._open()
        if self.dictionary is not None:
            read_dictionary(self.dictionary)

    def _open(self) -> tuple[WordVectors, WordVectors]:
        base, target = open_word_vectors(self.base_vectors), open_word_vectors(self.target_vectors)
        if base.dimensions != target.dimensions:
            raise TokenAdaptError(
                f"wechsel: {self.base_vectors} has vectors of {base.dimensions:,} dimensions, and "
                f"{self.target_vectors} of {target.dimensions:,}: they must be equal"
            )
        return base, target

    def combine(self, transfer: Transfer) -> SparseRows:
        """Return the weights w of the neighbours.

        Raises:
            TokenAdaptError: a file is malformed.
        """
        base, target = self._open()
        segmenter = Segmenter(transfer.target.definition, transfer.target.vocabulary)
        old_CA, new_NA = (
            token_vectors(words, tokens, splits, most=self.words, quiet=transfer.quiet)
            for words, tokens, splits in (
                (base, transfer.candidates, transfer.segmenter),
                (target, transfer.new_tokens, segmenter),
            )
        )
        if self.dictionary is not None:
            old_CA = old_CA @ rotation(base, target, read_dictionary(self.dictionary), most=self.words)
        unit_CA, unit_NA = (
            torch.nn.functional.normalize(torch.from_numpy(vectors).float().to(transfer.device), dim=1)
            for vectors in (old_CA, new_NA)
        )
        similarities_NK, places_NK = nearest(
            unit_NA, unit_CA, self.top_k, desc="Nearest old tokens of new ones", quiet=transfer.quiet
        )
        found_NK = similarities_NK > -torch.inf
        weights_NK = (similarities_NK / self.temperature).softmax(dim=1)
        rows = torch.arange(len(places_NK), device=places_NK.device)[:, None].expand_as(places_NK)
        ids_NK = transfer.candidate_ids[places_NK]
        return SparseRows.from_triplets(rows[found_NK], ids_NK[found_NK], weights_NK[found_NK], len(places_NK))
