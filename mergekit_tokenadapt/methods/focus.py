"""FOCUS: rows by the similarity of token vectors that are trained on text in the new tokens."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.numerics.sparsemax import sparsemax
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.texts import read_text, split_passages
from mergekit_tokenadapt.transfer.examples import shared_rows
from mergekit_tokenadapt.transfer.method import Explanation
from mergekit_tokenadapt.transfer.transfer import Transfer
from mergekit_tokenadapt.transfer.vector_method import VectorMethod

LOG = logging.getLogger(__name__)

PASSAGE = 4000
"""Bytes of a passage: a token's context does not reach beyond it."""
BUCKETS = 500_000
"""Vectors of n-grams that fastText keeps. Its own default of 2,000,000 takes 2.4 GB with 300 dimensions."""
BLOCK = 256
"""New tokens whose similarities are in memory at a time."""
FOUND = (
    "the row is the sum of the rows of these tokens of both vocabularies, by the similarity of their trained vectors"
)
"""What `explain` says about the weights of a row."""


class Focus(VectorMethod):
    """Combine the rows of shared tokens, by the similarity of token vectors that fastText learns from a text.

    The target tokenizer segments the text, and fastText (CBOW) learns a vector for each token. With z the cosine
    similarities of a new token and all tokens that both vocabularies have, row = ``sum_s sparsemax(z)_s E[s]``.
    """

    summary: ClassVar[str] = "a sparse mean of shared tokens' rows, by vectors that fastText learns from a text"
    source: ClassVar[str] = "FOCUS: Dobler and de Melo, arXiv 2305.14481"

    text: str = Field(description="text in the target's language: a file, a folder or jsonl")
    dimensions: PositiveInt = Field(default=300, description="dimensions of the vectors")
    epochs: PositiveInt = Field(default=3, description="times that fastText reads the text")
    least_count: PositiveInt = Field(default=10, description="occurrences that a token needs to get a vector")
    rare: Literal["mean", "random"] = Field(default="mean", description=VectorMethod.model_fields["rare"].description)

    @property
    def files(self) -> Mapping[str, str]:
        """The text."""
        return {"text": self.text}

    def combine(self, transfer: Transfer) -> SparseRows:
        """Return the weights of the shared tokens; none for rare tokens.

        Raises:
            TokenAdaptError: the text cannot be read, gensim is missing, or no shared token has a vector.
        """
        passages = self._passages(transfer)
        counts = Counter(token for passage in passages for token in passage)
        vectors = self._train(transfer, passages)
        shared = {new: old for old, new in shared_rows(transfer).items() if counts[new] >= self.least_count}
        if not shared:
            raise TokenAdaptError(
                f"focus: no token of both vocabularies occurs {self.least_count} times in {self.text}: give more text"
            )
        known = np.flatnonzero([counts[i] >= self.least_count for i in transfer.new_ids.tolist()])
        LOG.info("focus: %d of %d new tokens have a vector", len(known), len(transfer.new_ids))
        of_shared = _unit(vectors, list(shared))
        old_ids = torch.tensor(list(shared.values()))
        rows, ids, weights = [], [], []
        for places in progress(
            np.array_split(known, 1 + len(known) // BLOCK), desc="Similar shared tokens", quiet=transfer.quiet
        ):
            if not len(places):
                continue
            similarities = _unit(vectors, transfer.new_ids[places].tolist()) @ of_shared.T
            weights_NK, chosen_NK = sparsemax(similarities)
            positive = weights_NK > 0
            rows.append(torch.from_numpy(places)[:, None].expand_as(chosen_NK)[positive])
            ids.append(old_ids[chosen_NK[positive]])
            weights.append(weights_NK[positive])
        if not rows:
            return SparseRows.from_triplets(old_ids[:0], old_ids[:0], torch.zeros(0), len(transfer.new_ids))
        return SparseRows.from_triplets(torch.cat(rows), torch.cat(ids), torch.cat(weights), len(transfer.new_ids))

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return what the weights are."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation(FOUND))

    def _passages(self, transfer: Transfer) -> list[list[int]]:
        """The text in tokens of the target."""
        documents = read_text(self.text, option="text").documents
        passages = [p for document in documents for p in split_passages(document, PASSAGE)]
        encoder = transfer.target.fast_tokenizer()
        return [e.ids for e in encoder.encode_batch(passages, add_special_tokens=False)]

    def _train(self, transfer: Transfer, passages: list[list[int]]) -> Any:
        """The vectors by token id: of tokens that occur often enough."""
        with importing("gensim", extra="focus", wanted_by="the method focus"):
            from gensim.models import FastText
        spelling = {token.id: token.spelling for token in transfer.target.vocabulary}
        sentences = [[spelling[i] for i in passage if i in spelling] for passage in passages]
        model = FastText(
            vector_size=self.dimensions,
            min_count=self.least_count,
            negative=10,
            bucket=BUCKETS,
            seed=self.seed,
            workers=1,  # with several, the result depends on their timing
        )
        model.build_vocab(sentences)
        if not len(model.wv):
            return {}
        with progress(total=self.epochs, desc="fastText reads the text", quiet=transfer.quiet) as bar:
            model.train(sentences, total_examples=len(sentences), epochs=self.epochs, callbacks=(_counting(bar),))
        place = model.wv.key_to_index
        return {i: model.wv.vectors[place[word]] for i, word in spelling.items() if word in place}


def _counting(bar: Any) -> Any:
    """A callback of gensim that moves a bar after each epoch."""
    from gensim.models.callbacks import CallbackAny2Vec

    class Counting(CallbackAny2Vec):  # type: ignore[misc]
        def on_epoch_end(self, _model: Any) -> None:
            bar.update(1)

    return Counting()


def _unit(vectors: Mapping[int, np.ndarray], ids: list[int]) -> torch.Tensor:
    """The vectors of tokens, scaled to length 1, float32 [tokens, dimensions]."""
    return torch.nn.functional.normalize(torch.from_numpy(np.array([vectors[i] for i in ids])), dim=1)
