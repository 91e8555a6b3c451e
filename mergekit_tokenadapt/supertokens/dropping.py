"""Remove the least used tokens of a vocabulary, so that its size stays the same when other tokens are added."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary


def least_used(vocabulary: Vocabulary, model: Mapping[str, Any], usage: np.ndarray, number: int) -> list[Token]:
    """Choose the `number` least used tokens, in the order in which they are removed.

    Candidates are ordinary tokens that a merge makes. Special tokens, added tokens, bytes and single characters of the
    alphabet stay. So does every token that a remaining merge needs: a token can go only after all longer tokens that
    are merged from it. Text with a removed token is segmented into the two tokens that it was merged from.

    Args:
        vocabulary: the vocabulary with the candidates.
        model: the BPE model from ``tokenizer.json``, with its new merges.
        usage: occurrences of each id, int64 [ids].
        number: number of tokens to remove.

    Raises:
        TokenAdaptError: fewer than `number` tokens can be removed.
    """
    made_by: dict[str, list[tuple[str, str]]] = {}
    needed: Counter[str] = Counter()
    for left, right in merges_of({"model": model}):
        made_by.setdefault(left + right, []).append((left, right))
        needed.update({left, right} - {left + right})
    candidates = {t.spelling: t for t in vocabulary if t.kind is TokenKind.ORDINARY and t.spelling in made_by}
    # Of equally rare tokens, the one with the highest id goes first: BPE learned it last, from the rarest pair.
    heap = [(int(usage[t.id]), -t.id, t.spelling) for t in candidates.values() if not needed[t.spelling]]
    heapq.heapify(heap)
    dropped: list[Token] = []
    while len(dropped) < number:
        if not heap:
            raise TokenAdaptError(
                f"{number} tokens are to be dropped, but only {len(dropped)} can be: all others are special tokens or "
                "bytes, or tokens that stay are merged from them; add fewer tokens"
            )
        spelling = heapq.heappop(heap)[2]
        dropped.append(candidates[spelling])
        for merge in made_by[spelling]:
            for part in set(merge):
                needed[part] -= 1  # a part that no other merge needs becomes a candidate itself
                if not needed[part] and part in candidates:
                    token = candidates[part]
                    heapq.heappush(heap, (int(usage[token.id]), -token.id, part))
    return dropped


def check_number(vocabulary: Vocabulary, model: Mapping[str, Any], number: int) -> None:
    """Check, before anything is learned, that merges make at least `number` tokens.

    This is a quick upper bound; `least_used` finds the exact number.

    Raises:
        TokenAdaptError: merges make fewer than `number` tokens.
    """
    made = {left + right for left, right in merges_of({"model": model})}
    most = sum(t.kind is TokenKind.ORDINARY and t.spelling in made for t in vocabulary)
    if number > most:
        raise TokenAdaptError(
            f"{number} tokens are to be dropped, but only {most} can be: no merge makes the others; add fewer tokens"
        )


def replace_tokens(model: Mapping[str, Any], dropped: Sequence[Token], spellings: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a BPE model in which new tokens take the ids of the dropped tokens, lowest id first.

    Args:
        model: a model with the new tokens and their merges.
        dropped: tokens to remove. No remaining merge may need them.
        spellings: spellings of the new tokens, as many as `dropped` has.
    """
    gone = {t.spelling for t in dropped}
    vocab = {s: i for s, i in model["vocab"].items() if s not in gone}
    vocab |= dict(zip(spellings, sorted(t.id for t in dropped), strict=True))
    merges = [[x, y] for x, y in merges_of({"model": model}) if x + y not in gone]
    return {**model, "vocab": vocab, "merges": merges}
