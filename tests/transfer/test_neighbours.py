"""The nearest base tokens of each base token."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from planted_rows import (
    SPACES,
    spaces,
)
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_transfer, plain_definition

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@spaces
@pytest.mark.parametrize("block", [1, 50, 2048])
def test_no_old_token_is_its_own_neighbour(space: str, block: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["gemma-style"], zoo["byte-level"], SPACES[space]())
    similarities, ids = transfer.candidate_neighbours(12, block=block)
    assert ids.shape == (len(transfer.candidates), 12)
    assert not (ids == transfer.candidate_ids[:, None]).any()
    knows = transfer.vectors_of(transfer.candidates).any(dim=1)
    # A space may have no vector for white space that is in no other text. Other tokens have one.
    assert all(known or not token.label.strip() for token, known in zip(transfer.candidates, knows, strict=True))
    assert torch.equal(similarities.isfinite(), knows[:, None].expand_as(similarities))
    assert (similarities[knows].diff(dim=1) <= 0).all()


def test_the_neighbours_of_old_tokens_are_the_nearest_of_the_others(zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["unigram"], zoo["byte-level"], RandomSpace(seed=3))
    similarities, ids = transfer.candidate_neighbours(3)
    vectors = transfer.vectors_of(transfer.candidates)
    all_similarities = vectors @ vectors.T
    for n in range(0, len(vectors), 17):
        others = torch.cat([all_similarities[n, :n], all_similarities[n, n + 1 :]])
        torch.testing.assert_close(similarities[n], others.topk(3).values)
        assert transfer.candidates[n].id not in ids[n].tolist()


def test_asked_for_more_neighbours_than_there_are_the_rest_is_infinitely_far() -> None:
    definition = plain_definition(["a", "b", "ab"], decoder=BYTE_LEVEL, merges=["a b"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(["ba"], decoder=BYTE_LEVEL))
    transfer = make_transfer((definition, base), target, RandomSpace())
    similarities, ids = transfer.candidate_neighbours(99)
    assert similarities.shape == (3, 3)
    assert torch.equal(similarities.isfinite(), torch.tensor([[True, True, False]]).expand(3, 3))
    assert not (ids[:, :2] == transfer.candidate_ids[:, None]).any()
