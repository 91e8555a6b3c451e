"""The input of a method: two vocabularies, how they match, and the features of the new tokens.

Letters: N new tokens, C candidate old tokens, A dimensions of the auxiliary space.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.models.donor import Donor
from mergekit_tokenadapt.numerics.inner_products import choose_search
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.segmentation import Pieces, Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap

CPU = torch.device("cpu")
BLOCK = 512
"""Tokens whose neighbours are searched for at a time."""
MAX_BLOCK_BYTES = 1 << 29
"""Similarities in memory at a time, at most: with many candidates, blocks are shorter."""


@dataclass(frozen=True, kw_only=True)
class TransferProblem:
    """Old rows are known, new rows are wanted. Everything here is made on first use, and kept.

    `Transfer.make_problem` makes it, and nothing else does.
    """

    base: Vocabulary
    target: Vocabulary
    mapping: VocabularyMap
    segmenter: Segmenter
    base_rows: int
    auxiliary: AuxiliarySpace | None = None
    device: torch.device = CPU
    quiet: bool = False
    donor: Donor | None = None
    only: frozenset[int] | None = None
    """Make only these target ids' rows; None: all that are new."""
    without_byte_twins: bool = False
    """Old tokens that are never produced, so that nothing trained their rows, are no candidates."""

    @cached_property
    def new_tokens(self) -> list[Token]:
        """The N tokens to make rows for, by ascending id.

        Special tokens without a counterpart are not among them: they stand for no text.
        """
        return [t for t in self._all_new_tokens if self.only is None or t.id in self.only]

    @cached_property
    def _all_new_tokens(self) -> list[Token]:
        ids = self.mapping.ids(Reason.NEW).tolist()
        return [t for t in map(self.target.by_id.__getitem__, ids) if t.kind is not TokenKind.SPECIAL]

    def among(self, ids: Iterable[int]) -> TransferProblem:
        """The same problem for some of the new tokens. Vectors are not made again."""
        part = replace(self, only=frozenset(ids))
        if self.auxiliary is not None:
            part.__dict__["_vectors"] = self._vectors
        return part

    @cached_property
    def new_ids(self) -> np.ndarray:
        """Their ids, int64 [N]."""
        return np.array([t.id for t in self.new_tokens], dtype=np.int64)

    @cached_property
    def pieces(self) -> Pieces:
        """The old tokens that each new token's text is cut into."""
        return self.segmenter.cut([t.bytes for t in self.new_tokens])

    @cached_property
    def candidates(self) -> list[Token]:
        """The C old tokens that can be a neighbour: all that stand for text and have a row.

        Sorted by bytes, so that ties between neighbours do not depend on how ids were given out.
        """
        left_out = self.base.byte_twins if self.without_byte_twins else frozenset()
        text_tokens = (t for t in self.base if t.kind is not TokenKind.SPECIAL and t.id not in left_out)
        usable = [t for t in text_tokens if t.id < self.base_rows]
        return sorted(usable, key=lambda t: (t.bytes, t.kind, t.spelling))

    @cached_property
    def candidate_ids(self) -> Tensor:
        """Their ids, int64 [C], on `device`."""
        return torch.tensor([t.id for t in self.candidates], dtype=torch.int64, device=self.device)

    @cached_property
    def _vectors(self) -> tuple[Tensor, dict[str, int]]:
        """Unit vectors of all distinct texts, and the place of each text among them."""
        assert self.auxiliary is not None, "this method needs an auxiliary space"
        texts = sorted({t.label for t in self.candidates} | {t.label for t in self._all_new_tokens})
        vectors = self.auxiliary.embed(texts, device=self.device, quiet=self.quiet)
        return torch.nn.functional.normalize(vectors.to(self.device), dim=1), {t: n for n, t in enumerate(texts)}

    def vectors_of(self, tokens: list[Token]) -> Tensor:
        """phi: unit vectors of candidates or new tokens, float32 [len(tokens), A], on `device`."""
        vectors, place = self._vectors
        return vectors[torch.tensor([place[t.label] for t in tokens], dtype=torch.int64, device=self.device)]

    def neighbours(self, top_k: int, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
        """The `top_k` candidates nearest to each new token, most similar first.

        The similarities are computed in blocks: no N x C matrix is ever in memory. A text that the
        auxiliary space knows nothing of (a zero vector) is near to nothing: its similarity is -inf.

        Returns:
            cosine similarities, float32 [N, k]; ids of old tokens, int64 [N, k]; k = min(top_k, C).
        """
        return self._nearest(self.vectors_of(self.new_tokens), top_k, block, of="new")

    def candidate_neighbours(
        self, top_k: int, *, among: list[int] | None = None, block: int = BLOCK
    ) -> tuple[Tensor, Tensor]:
        """As `neighbours`, for each of the C candidates, or for those at these places: none is its own neighbour."""
        places = list(range(len(self.candidates))) if among is None else among
        queries_QA = self.vectors_of([self.candidates[n] for n in places])
        return self._nearest(queries_QA, top_k, block, of="old", own=torch.tensor(places, device=self.device))

    def _nearest(
        self, queries_QA: Tensor, top_k: int, block: int, *, of: str, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Neighbours of queries; `own` is the place of each among the candidates, to be left out."""
        candidates_CA = self.vectors_of(self.candidates)
        known = candidates_CA.any(dim=1).nonzero().flatten()
        shape = (len(queries_QA), min(top_k, len(candidates_CA)))
        similarities, places = queries_QA.new_full(shape, -torch.inf), self.candidate_ids.new_zeros(shape)
        search = choose_search(candidates_CA[known])
        wanted = min(shape[1] + (own is not None), len(known))
        block = max(1, min(block, MAX_BLOCK_BYTES // (4 * max(1, len(known)))))
        starts = range(0, len(queries_QA) if wanted else 0, block)
        for start in progress(starts, desc=f"Nearest old tokens of {of} ones", unit="block", quiet=self.quiet):
            part = slice(start, start + block)
            found_Qk, values_Qk = search.top(queries_QA[part], wanted)
            found_Qk = known[found_Qk]
            if own is not None:
                found_Qk, values_Qk = _without(own[part], found_Qk, values_Qk)
            similarities[part, : found_Qk.shape[1]], places[part, : found_Qk.shape[1]] = values_Qk, found_Qk
        similarities[~queries_QA.any(dim=1)] = -torch.inf
        return similarities, self.candidate_ids[places]


def _without(own_Q: Tensor, found_Qk: Tensor, values_Qk: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out each query itself; where as many others are just as near, the last one."""
    is_own = found_Qk == own_Q[:, None]
    is_own[~is_own.any(dim=1), -1] = True
    shape = (len(found_Qk), found_Qk.shape[1] - 1)
    return found_Qk[~is_own].view(shape), values_Qk[~is_own].view(shape)
