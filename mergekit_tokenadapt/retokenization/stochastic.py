"""Split tokens at random, so that a model learns what its tokens consist of: StochasTok (arXiv 2506.01687).

Each step draws a position in the sequence. If its token has the same bytes as some pairs of tokens in the vocabulary,
one of these pairs is drawn and replaces the token. The bytes stay the same, and so does the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary

PER_TOKEN = frozenset({"token_type_ids", "position_ids", "special_tokens_mask", "assistant_masks", "offset_mapping"})
"""Columns of tokenizers that have one value for each token."""


class StochasticSplitter:
    """Splits tokens at random; a callable for `datasets.Dataset.map`.

    >>> dataset.map(StochasticSplitter(vocabulary, 0.1), batched=True, with_indices=True)  # doctest: +SKIP

    Args:
        vocabulary: the vocabulary of the sequences.
        share: number of steps divided by the number of tokens in a sequence. Most of the paper uses 0.1. A step that
            draws a token without such a pair changes nothing.
        seed: together with a sequence's number in the dataset, the seed decides the splits of the sequence. The size of
            batches has no influence.

    Raises:
        TokenAdaptError: the share is negative or infinite.
    """

    def __init__(self, vocabulary: Vocabulary, share: float = 0.1, seed: int = 0) -> None:
        if not 0 <= share < float("inf"):
            raise TokenAdaptError(f"the share of splits must be 0 or more, not {share}")
        self._vocabulary, self.share, self.seed = vocabulary, share, seed
        self._pairs: dict[int, list[tuple[int, int]]] = {}

    @cached_property
    def _by_bytes(self) -> Mapping[bytes, int]:
        """Bytes -> id. Ordinary tokens come before byte tokens, and then the lowest id is taken."""
        usable = [t for t in self._vocabulary if t.kind in (TokenKind.ORDINARY, TokenKind.BYTE) and t.bytes]
        return {t.bytes: t.id for t in sorted(usable, key=lambda t: (t.kind is TokenKind.ORDINARY, -t.id))}

    def pairs(self, token_id: int) -> list[tuple[int, int]]:
        """Return the pairs of tokens with this token's bytes, shortest first part first. Special tokens have none."""
        if token_id not in self._pairs:
            token = self._vocabulary.by_id.get(token_id)
            found = []
            if token is not None and token.kind is TokenKind.ORDINARY:
                halves = ((token.bytes[:n], token.bytes[n:]) for n in range(1, len(token.bytes)))
                both = ((self._by_bytes.get(left), self._by_bytes.get(right)) for left, right in halves)
                found = [(left, right) for left, right in both if left is not None and right is not None]
            self._pairs[token_id] = found
        return self._pairs[token_id]

    def split(self, ids: Sequence[int], number: int = 0) -> list[int]:
        """Split some tokens of one sequence. `number` is the sequence's position in the dataset."""
        # The sequence's number is a part of the seed, so that the order and size of batches change nothing.
        generator = np.random.default_rng([self.seed, number])
        result = list(ids)
        for _ in range(round(self.share * len(ids))):
            place = int(generator.integers(len(result)))
            pairs = self.pairs(result[place])
            if pairs:
                result[place : place + 1] = pairs[int(generator.integers(len(pairs)))]
        return result

    def __call__(self, batch: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> dict[str, list[Any]]:
        """Split a batch, for ``Dataset.map(..., batched=True, with_indices=True)``.

        Returns:
            New `input_ids`, and new `attention_mask`, `token_type_ids` and `labels` where the batch has them.

        Raises:
            TokenAdaptError: the attention_mask hides tokens, the labels are not the input_ids, or another column has a
                value for each token. None of them could be split alike.
        """
        ids = [self.split(one, number) for one, number in zip(batch["input_ids"], numbers, strict=True)]
        result: dict[str, list[Any]] = {"input_ids": ids}
        if "attention_mask" in batch:
            # Splitting makes sequences longer. Padding would no longer fit, and hidden tokens would be split as well.
            if not all(all(mask) for mask in batch["attention_mask"]):
                raise TokenAdaptError("the attention_mask hides some tokens: split before padding")
            result["attention_mask"] = [[1] * len(one) for one in ids]
        if "labels" in batch:
            if any(list(a) != list(b) for a, b in zip(batch["labels"], batch["input_ids"], strict=True)):
                raise TokenAdaptError("the labels are not the input_ids: split before labels are made")
            result["labels"] = [list(one) for one in ids]
        if "token_type_ids" in batch and all(len(set(types)) <= 1 for types in batch["token_type_ids"]):
            result["token_type_ids"] = [
                [*types[:1]] * len(one) for types, one in zip(batch["token_type_ids"], ids, strict=True)
            ]
        if left := PER_TOKEN.intersection(batch) - result.keys():
            raise TokenAdaptError(
                f"the column {min(left)} has a value for each token, which cannot be split: remove it"
            )
        return result
