"""Dropping the least used tokens of a vocabulary, so that it keeps its size when others are added."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.pretokenizers import merges_of
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary


def least_used(vocabulary: Vocabulary, model: Mapping[str, Any], usage: np.ndarray, number: int) -> list[Token]:
    """The tokens that are missed least, in the order in which they go.

    Only ordinary tokens that a merge makes can go: special and added tokens, bytes and single characters
    of the alphabet stay. So does every token that a merge which stays needs: a token goes when all longer
    ones made from it have gone. Text that held a dropped token is cut into the two that it was made of.

    Args:
        vocabulary: tokens that may go.
        model: the BPE model, with its new merges.
        usage: how often each id occurs.
        number: tokens to drop.

    Raises:
        TokenAdaptError: fewer can go.
    """
    made_by: dict[str, list[tuple[str, str]]] = {}
    needed: Counter[str] = Counter()
    for left, right in merges_of({"model": model}):
        made_by.setdefault(left + right, []).append((left, right))
        needed.update({left, right} - {left + right})
    candidates = {t.spelling: t for t in vocabulary if t.kind is TokenKind.ORDINARY and t.spelling in made_by}
    # Of equally rare tokens, the one learned last goes first.
    heap = [(int(usage[t.id]), -t.id, t.spelling) for t in candidates.values() if not needed[t.spelling]]
    heapq.heapify(heap)
    dropped: list[Token] = []
    while len(dropped) < number:
        if not heap:
            raise TokenAdaptError(
                f"{number} tokens are to be dropped, but only {len(dropped)} can be: all others are special, bytes, "
                "or needed to make tokens that stay"
            )
        spelling = heapq.heappop(heap)[2]
        dropped.append(candidates[spelling])
        for merge in made_by[spelling]:
            for part in set(merge):
                needed[part] -= 1
                if not needed[part] and part in candidates:
                    token = candidates[part]
                    heapq.heappush(heap, (int(usage[token.id]), -token.id, part))
    return dropped


def check_number(vocabulary: Vocabulary, model: Mapping[str, Any], number: int) -> None:
    """Refuse, before anything is learned, to drop more tokens than merges make.

    Raises:
        TokenAdaptError: there are not so many.
    """
    made = {left + right for left, right in merges_of({"model": model})}
    most = sum(t.kind is TokenKind.ORDINARY and t.spelling in made for t in vocabulary)
    if number > most:
        raise TokenAdaptError(f"{number} tokens are to be dropped, but only {most} can be: no merge makes the others")


def replace_tokens(model: Mapping[str, Any], dropped: Sequence[Token], spellings: Sequence[str]) -> dict[str, Any]:
    """A copy of a BPE model without the dropped tokens, whose ids the new ones take, lowest id first.

    Args:
        model: with the new tokens and their merges.
        dropped: tokens to take out; no kept merge needs them.
        spellings: the new tokens, as many.
    """
    gone = {t.spelling for t in dropped}
    vocab = {s: i for s, i in model["vocab"].items() if s not in gone}
    vocab |= dict(zip(spellings, sorted(t.id for t in dropped), strict=True))
    merges = [[x, y] for x, y in merges_of({"model": model}) if x + y not in gone]
    return {**model, "vocab": vocab, "merges": merges}
