"""Byte tokens that the tokenizer never produces, since an ordinary token has the same byte."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from planted_rows import (
    plan_between,
    plan_of,
    random_tensor,
)
from tokenizers_zoo import RandomSpace, added, make_transfer, plain_definition

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason


@pytest.mark.parametrize("target", ["gemma-style", "sentencepiece-bpe"])
@pytest.mark.parametrize("base", ["byte-level", "unigram", "wordpiece"])
def test_byte_tokens_beside_an_ordinary_token_become_mean_rows(
    base: str, target: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    vocabulary = zoo[target].vocabulary
    made = plan_between(zoo[base], zoo[target], num_rows=vocabulary.num_ids + 1)
    rows = made.apply(random_tensor(zoo[base].vocabulary.num_ids, 4, seed=54)).rows
    mean_row = rows[-1]
    others = {t.bytes for t in vocabulary if t.kind in (TokenKind.ORDINARY, TokenKind.ADDED)}
    bytes_ = [t for t in vocabulary if t.kind is TokenKind.BYTE]
    twins = [t.id for t in bytes_ if t.bytes in others]
    single = [t.id for t in bytes_ if t.bytes not in others]
    assert len(twins) > 30
    assert len(single) > 100
    is_mean = (rows == mean_row).all(dim=1)
    assert [vocabulary.by_id[i].spelling for i in twins if not is_mean[i]] == []
    copied = [i for i in single if made.mapping.sources[i] >= 0]
    assert not is_mean[copied].any()
    assert torch.isin(torch.tensor(twins), made.mean_ids).all()
    assert not torch.isin(torch.tensor(copied), made.mean_ids).any()


def test_an_added_token_makes_its_byte_unreachable_and_a_special_one_does_not(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    definition = plain_definition(
        ["<0x09>", "<0x41>", "<0x42>", "<0x43>", "A", "\t", "B"],
        [added("\t", 5, special=False), added("B", 6)],
        decoder={"type": "ByteFallback"},
        byte_fallback=True,
    )
    target = make_transfer(zoo["byte-level"], Vocabulary.from_definition(definition)).target.vocabulary
    assert [target.by_id[i].spelling for i in sorted(target.byte_twins)] == ["<0x09>", "<0x41>"]


def test_ordinary_tokens_of_one_byte_are_never_called_unreachable(zoo: Mapping[str, TokenizerFiles]) -> None:
    for name in ("gemma-style", "sentencepiece-bpe"):
        target = zoo[name].vocabulary
        assert {target.by_id[i].kind for i in target.byte_twins} == {TokenKind.BYTE}
    for name in ("unigram", "wordpiece"):
        assert zoo[name].vocabulary.byte_twins == frozenset()


def test_explain_says_that_an_unreachable_row_is_a_mean_row(zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    assert len(made.unreachable_ids) > 30
    assert {row: made.explain(row) for row in made.unreachable_ids.tolist() if made.explain(row)} == {}


@pytest.mark.parametrize("name", ["mean", "local", "global", "hybrid"])
def test_the_papers_methods_keep_unreachable_rows(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"], RandomSpace())
    assert len(transfer.target.vocabulary.byte_twins) > 30
    made = plan_of(transfer, name)
    assert len(made.unreachable_ids) == 0
    assert made.regression is None
    copied = made.mapping.ids(Reason.COPIED)
    matrix = random_tensor(transfer.base.vocabulary.num_ids, 4, seed=56)
    assert torch.equal(made.apply(matrix).rows[copied], matrix[made.mapping.sources[copied]])
