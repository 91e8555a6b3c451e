"""The nearest base tokens of each base token."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from planted_rows import (
    SPACES,
    spaces,
)
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_problem, plain_definition

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@spaces
@pytest.mark.parametrize("block", [1, 50, 2048])
def test_no_old_token_is_its_own_neighbour(space: str, block: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["gemma-style"], zoo["byte-level"], SPACES[space]())
    similarities, ids = problem.candidate_neighbours(12, block=block)
    assert ids.shape == (len(problem.candidates), 12)
    assert not (ids == problem.candidate_ids[:, None]).any()
    assert similarities.isfinite().all()
    assert (similarities.diff(dim=1) <= 0).all()


def test_the_neighbours_of_old_tokens_are_the_nearest_of_the_others(zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["unigram"], zoo["byte-level"], RandomSpace(seed=3))
    similarities, ids = problem.candidate_neighbours(3)
    vectors = problem.vectors_of(problem.candidates)
    all_similarities = vectors @ vectors.T
    for n in range(0, len(vectors), 17):
        others = torch.cat([all_similarities[n, :n], all_similarities[n, n + 1 :]])
        torch.testing.assert_close(similarities[n], others.topk(3).values)
        assert problem.candidates[n].id not in ids[n].tolist()


def test_asked_for_more_neighbours_than_there_are_the_rest_is_infinitely_far() -> None:
    definition = plain_definition(["a", "b", "ab"], decoder=BYTE_LEVEL, merges=["a b"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(["ba"], decoder=BYTE_LEVEL))
    problem = make_problem((definition, base), target, RandomSpace())
    similarities, ids = problem.candidate_neighbours(99)
    assert similarities.shape == (3, 3)
    assert torch.equal(similarities.isfinite(), torch.tensor([[True, True, False]]).expand(3, 3))
    assert not (ids[:, :2] == problem.candidate_ids[:, None]).any()
