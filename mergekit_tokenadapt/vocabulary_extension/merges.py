"""Append tokens to a BPE model: find merges that make each token from what the model makes of its text so far.

A new merge comes after all earlier merges, and its result is never an old token. BPE applies the earliest possible
merge first. Therefore a text is first merged exactly as before, and new merges only join the resulting tokens. A text
whose tokens are all old is a text in which no new merge applied, so its tokens are those of the base.

Letters of the docstrings: a token's *pieces* are the tokens that the model with all merges so far makes of its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.supertokens.learning import NewMerge
from mergekit_tokenadapt.supertokens.reach import BLOCK
from mergekit_tokenadapt.tokenizer.vocabulary import Definition
from mergekit_tokenadapt.vocabulary_extension.candidates import UNMADE, Candidate, LeftOut


@dataclass
class NewMerges:
    """Merges and single characters that are appended to a BPE model. `reach` adds what one more token needs."""

    old: Mapping[str, Any]
    """The old tokens by spelling. No new merge may make one of them."""
    wanted: Mapping[str, int]
    """Spellings that would better be new tokens than others -> their place in the order of preference."""
    merges: list[NewMerge] = field(default_factory=list)
    characters: dict[str, None] = field(default_factory=dict)
    """Characters that the old model lacks; they need no merge."""
    _ranks: dict[tuple[str, str], int] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Number of new tokens."""
        return len(self.characters) + len(self._made)

    def __contains__(self, spelling: str) -> bool:
        return spelling in self._made or spelling in self.characters

    def reach(self, pieces: Sequence[str], room: int) -> bool | None:
        """Add the merges and characters that make one token of these pieces of the old model.

        Args:
            pieces: what the old model, with all missing characters added, makes of the token's text.
            room: number of tokens that may be added.

        Returns:
            True if the token can be made now; False, with nothing added, if it needs more tokens than there is room
            for; None if no merges can make it.
        """
        characters = [p for p in dict.fromkeys(pieces) if p not in self.old and p not in self.characters]
        steps, is_possible = self._steps(pieces)
        made = {x + y for x, y in steps} - self._made
        if not is_possible or len(made) + len(characters) > room:
            for pair in steps:
                del self._ranks[pair]
            return False if is_possible else None
        for pair in steps:
            spelling = pair[0] + pair[1]
            self.merges.append(NewMerge(*pair, is_new=spelling not in self._made))
            self._made.add(spelling)
        self.characters |= dict.fromkeys(characters)
        return True

    def _steps(self, pieces: Sequence[str]) -> tuple[list[tuple[str, str]], bool]:
        """Rank the further merges that join all pieces. Returns them, and whether they do make one token."""
        steps, current = list[tuple[str, str]](), merged(pieces, self._ranks)
        while len(current) > 1:
            pair = self._best_pair(current)
            if pair is None:
                return steps, False
            steps.append(pair)
            self._ranks[pair] = len(self._ranks)
            current = merged(current, self._ranks)
        return steps, True

    def _best_pair(self, pieces: Sequence[str]) -> tuple[str, str] | None:
        """Return the neighbours to merge next: into a token that exists, else into a wanted one, else the first."""
        allowed = [(x, y) for x, y in pairwise(pieces) if x + y not in self.old]
        last = len(self.wanted)
        # A character is never the result of a merge, so the result can only be in `_made`.
        return min(
            allowed,
            key=lambda pair: (pair[0] + pair[1] not in self._made, self.wanted.get(pair[0] + pair[1], last)),
            default=None,
        )


def merged(pieces: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Apply merges to a list of pieces, the merge of lowest rank first and from left to right, as BPE does.

    >>> merged(["a", "b", "c"], {("b", "c"): 0, ("a", "b"): 1})
    ['a', 'bc']
    """
    pieces = list(pieces)
    while len(pieces) > 1:
        possible = [(ranks[p], n) for n, p in enumerate(pairwise(pieces)) if p in ranks]
        if not possible:
            break
        _, place = min(possible)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def new_merges(
    definition: Definition,
    old: Mapping[str, Any],
    offered: Sequence[Candidate],
    most: int | None,
    left_out: LeftOut,
) -> tuple[NewMerges, list[Candidate]]:
    """Find merges for candidates, in their order, until there are `most` new tokens.

    A candidate that needs more tokens than there is still room for is passed over.

    Args:
        definition: the BPE tokenizer.
        old: all its tokens, added ones too, by spelling.
        offered: the candidates.
        most: largest number of new tokens; None: no limit.
        left_out: gets the candidates that no merges can make.

    Returns:
        The merges and characters, and the candidates that they make.
    """
    wanted = {c.spelling: n for n, c in enumerate(offered)}
    found, taken = NewMerges(old, wanted), list[Candidate]()
    for candidate, pieces in zip(offered, _pieces(definition, [c.spelling for c in offered]), strict=True):
        room = len(offered) * max(1, len(pieces)) if most is None else most - found.size
        if most is not None and candidate.spelling not in found and room == 0:
            continue
        is_made = found.reach(pieces, room)
        if is_made is None:
            left_out.add(UNMADE, candidate.token)
        elif is_made:
            taken.append(candidate)
    return found, taken


def _pieces(definition: Definition, spellings: Sequence[str]) -> Iterable[list[str]]:
    """Return what the BPE model, with all characters of the spellings added, makes of each spelling."""
    model = definition["model"]
    missing = dict.fromkeys(c for s in spellings for c in s if c not in model["vocab"])
    first = max(model["vocab"].values()) + 1
    vocab = {**model["vocab"], **{c: n for n, c in enumerate(missing, start=first)}}
    spelled = {i: s for s, i in vocab.items()}
    # With ignore_merges, the model would find a whole word in the vocabulary without trying its merges.
    bare = {**model, "vocab": vocab, "ignore_merges": False}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": bare}))
    for start in range(0, len(spellings), BLOCK):
        block = spellings[start : start + BLOCK]
        for encoding in tokenizer.encode_batch_fast(list(block), add_special_tokens=False):
            yield [spelled[i] for i in encoding.ids]
