"""What a transfer refuses, computes once, shares with its parts, and lets go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from tokenizers_zoo import RandomSpace, make_transfer, with_method
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles


class CountingSpace(RandomSpace):
    """Counts how often texts are embedded."""

    calls = 0

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        self.calls += 1
        return super().embed(texts, device=device, quiet=quiet)


def test_a_plan_leaves_no_vectors_behind(zoo: Mapping[str, TokenizerFiles]) -> None:
    """They can take more memory than the matrices that the plan is applied to."""
    space = CountingSpace(seed=1)
    transfer = with_method(make_transfer(zoo["byte-level"], zoo["unigram"], space), "calibrated")
    first = transfer.make_plan()
    assert space.calls == 1
    assert not {"_vectors", "pieces"} & vars(transfer).keys()
    again = transfer.make_plan()
    assert torch.equal(first.composition.weights, again.composition.weights)


def test_the_parts_of_a_transfer_share_its_vectors(zoo: Mapping[str, TokenizerFiles]) -> None:
    space = CountingSpace(seed=1)
    transfer = make_transfer(zoo["byte-level"], zoo["unigram"], space)
    ids = transfer.new_ids.tolist()
    some, others = transfer.among(ids[::2]), transfer.among(ids[1::2])
    assert some.new_ids.tolist() == ids[::2]
    assert [t.id for t in others.new_tokens] == ids[1::2]
    whole = transfer.neighbours(3)
    for part, places in ((some, slice(0, None, 2)), (others, slice(1, None, 2))):
        similarities, neighbours = part.neighbours(3)
        assert torch.equal(neighbours, whole[1][places])
        torch.testing.assert_close(similarities, whole[0][places])
    assert space.calls == 1


def test_a_transfer_checks_its_token_map_before_anything_slow(zoo: Mapping[str, TokenizerFiles]) -> None:
    bytes_, gemma = zoo["byte-level"], zoo["gemma-style"]
    make_transfer(bytes_, gemma, token_map={"<|im_start|>": "<start_of_turn>"})
    with pytest.raises(TokenAdaptError, match="token_map: '<nothing>': '<nobody>' fits neither form"):
        make_transfer(bytes_, gemma, token_map={"<nothing>": "<nobody>"})


def test_a_transfer_makes_the_plan_it_describes(zoo: Mapping[str, TokenizerFiles]) -> None:
    bytes_, gemma = zoo["byte-level"], zoo["gemma-style"]
    transfer = make_transfer(bytes_, gemma, token_map={"<|im_start|>": "<start_of_turn>"}, num_rows=600, base_rows=500)
    plan = transfer.make_plan()
    assert (plan.method, plan.options, plan.num_rows) == ("mean", {}, 600)
    row = gemma.vocabulary.by_spelling["<start_of_turn>"].id
    assert plan.explain(row) == [(bytes_.vocabulary.by_spelling["<|im_start|>"].id, 1.0)]
    assert int(plan.composition.ids.max()) < 500
    assert plan.mapping.sources.max() < 500


def test_transfers_are_compared_by_identity(zoo: Mapping[str, TokenizerFiles]) -> None:
    one, other = (make_transfer(zoo["byte-level"], zoo["unigram"]) for _ in range(2))
    assert one != other
    assert len({one, other}) == 2
