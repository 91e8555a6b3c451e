"""Plans: what they are made of, applied to tensors, and explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers_zoo
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_plans import OLD_ROWS, plan_between, plan_of, random_tensor
from tokenizers_zoo import BYTE_LEVEL, PAIR_IDS, PAIRS, RandomSpace, added, make_transfer, plain_definition
from torch import Tensor

from mergekit_tokenadapt.auxiliary.ngram import NgramSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan import TransferPlan

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda d: str(d)[6:])

INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def bits(tensor: Tensor) -> Tensor:
    """For comparisons bit by bit: NaN equals itself, and -0.0 is not 0.0."""
    return tensor.contiguous().view(INTEGERS[tensor.dtype])


def dense(plan: TransferPlan, rows: int) -> np.ndarray:
    """The plan as one matrix, from `explain` alone; mean rows are left zero."""
    matrix = np.zeros((plan.num_rows, rows))
    for row in range(plan.num_rows):
        for token_id, weight in plan.explain(row):
            matrix[row, token_id] += weight
    return matrix


# --- what it is made of --------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "target"), PAIRS, ids=PAIR_IDS)
def test_every_row_has_one_origin(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo[base], zoo[target], num_rows=zoo[target].vocabulary.num_ids + 3)
    origins = torch.cat([made.copied_ids, made.composed_ids, made.mean_ids])
    assert sorted(origins.tolist()) == list(range(made.num_rows))
    reasons = made.mapping.reasons
    assert set(reasons[made.copied_ids.numpy()].tolist()) <= {Reason.COPIED, Reason.SPECIAL}
    assert set(reasons[made.composed_ids.numpy()].tolist()) <= {Reason.NEW, Reason.SPECIAL}
    assert set(made.mapping.ids(Reason.PADDING).tolist()) <= set(made.mean_ids.tolist())
    assert (made.composition.counts > 0).all()
    assert len(made.composition) == len(made.composed_ids)


def test_no_base_token_without_a_row_is_used(zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo["byte-level"]
    spread = tokenizers_zoo.renumbered(dict(base.definition), lambda i: 2 * i)
    transfer = make_transfer((spread, Vocabulary.from_definition(spread)), zoo["wordpiece"], base_rows=500)
    made = plan_of(transfer, "mean")
    used = {token_id for row in range(made.num_rows) for token_id, _ in made.explain(row)}
    assert max(used) < 500
    assert all(token_id % 2 == 0 for token_id in used)


def test_counts_add_up(plan: TransferPlan) -> None:
    counts = plan.counts()
    assert sum(counts[reason] for reason in ("copied", "special", "new", "padding")) == plan.num_rows == 610
    assert counts["padding"] == 610 - 601
    mean_new = [r for r in plan.mean_ids.tolist() if plan.mapping.reasons[r] == Reason.NEW]
    assert counts["unresolved"] == len(mean_new)


def test_a_special_token_without_a_counterpart_is_a_mean_row(zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    row = zoo["gemma-style"].vocabulary.by_spelling["<start_of_turn>"].id
    assert row in made.mean_ids.tolist()
    assert made.explain(row) == []


def test_explain_gives_the_weights(plan: TransferPlan, zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["unigram"].vocabulary, zoo["byte-level"].vocabulary
    letter = target.by_spelling["a"].id
    assert plan.explain(letter) == [(base.by_spelling["a"].id, 1.0)]
    assert plan.explain(target.by_spelling["<|im_start|>"].id) == [(base.by_spelling["<s>"].id, 1.0)]
    assert plan.explain(609) == []
    made_from_text = plan.explain(target.by_spelling["<tool>"].id)
    assert b"".join(sorted(base.by_id[i].bytes for i, _ in made_from_text))
    for row in plan.composed_ids.tolist():
        weights = [weight for _, weight in plan.explain(row)]
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        assert weights == sorted(weights, reverse=True)


def test_a_row_from_a_text_is_the_mean_of_its_pieces(zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["byte-level"], zoo["gemma-style"]
    made = plan_between(base, target, token_map={"<start_of_turn>": " the river the"})
    row = target.vocabulary.by_spelling["<start_of_turn>"].id
    explained = [(base.vocabulary.by_id[i].bytes, w) for i, w in made.explain(row)]
    assert explained == [(b" the", pytest.approx(2 / 3)), (b" river", pytest.approx(1 / 3))]


def test_a_row_from_one_piece_is_that_piece() -> None:
    """One weight is enough for a row: only tokens without any are mean rows."""
    definition = plain_definition(["a", "b"], decoder=BYTE_LEVEL)
    base = Vocabulary.from_definition(definition)
    wanted = plain_definition(["b"], [added("<t>", 1, special=False)], decoder=BYTE_LEVEL)
    target = Vocabulary.from_definition(wanted)
    made = plan_of(make_transfer((definition, base), target, RandomSpace(), token_map={"<t>": "a"}), "mean")
    assert made.explain(1) == [(0, 1.0)]
    old = random_tensor(2, 4)
    assert torch.equal(made.apply(old).rows, old[[1, 0]])


def test_rows_asked_for_are_explained_without_a_calibration(zoo: Mapping[str, TokenizerFiles]) -> None:
    """A map would have to be fitted for all new tokens."""
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"], NgramSpace())
    whole = plan_of(transfer, "calibrated")
    assert whole.regression is not None
    some = dataclasses.replace(transfer, only=frozenset(whole.composed_ids[:3].tolist()))
    assert plan_of(some, "calibrated").regression is None


def test_asking_for_some_rows_only_gives_the_same_rows(zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["gemma-style"], zoo["byte-level"], NgramSpace())
    whole = plan_of(transfer)
    wanted = whole.composed_ids[::50].tolist()
    part = plan_of(dataclasses.replace(transfer, only=frozenset(wanted)))
    for row in wanted:
        assert dict(part.explain(row)) == pytest.approx(dict(whole.explain(row)), abs=1e-5)


# --- apply ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1,)], ids=["bias", "matrix", "three axes", "one column"])
@DTYPES
def test_apply_is_what_explain_says(plan: TransferPlan, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    old = random_tensor(OLD_ROWS + 10, *shape, dtype=dtype)
    made = plan.apply(old).rows
    assert made.shape == (plan.num_rows, *shape)
    assert made.dtype == dtype
    expected = np.tensordot(dense(plan, OLD_ROWS + 10), old.double().numpy(), axes=1)
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-5}[dtype]
    mean_rows = plan.mean_ids.numpy()
    explained = np.setdiff1d(np.arange(plan.num_rows), mean_rows)
    np.testing.assert_allclose(made.double().numpy()[explained], expected[explained], atol=tolerance)
    assert torch.equal(made[mean_rows], made[mean_rows[:1]].expand_as(made[mean_rows])), "there is one mean row"
    assert made[mean_rows].abs().max() < 1, "the mean of many random numbers"


@DTYPES
def test_copied_rows_are_bit_identical(plan: TransferPlan, dtype: torch.dtype) -> None:
    old = random_tensor(OLD_ROWS, 4, dtype=dtype)
    old[::3] = -0.0
    old[1::7] = torch.inf
    old[2::5, 1] = torch.finfo(dtype).smallest_normal / 4  # subnormal
    made = plan.apply(old).rows
    sources = torch.from_numpy(plan.mapping.sources)[plan.copied_ids]
    assert torch.equal(bits(made[plan.copied_ids]), bits(old[sources]))


@DTYPES
def test_a_broken_row_stays_in_the_rows_that_are_made_of_it(plan: TransferPlan, dtype: torch.dtype) -> None:
    copied = set(plan.mapping.sources.tolist())
    used = set(plan.composition.ids.tolist())
    broken = next(i for i in sorted(copied - used) if i >= 0)
    old = random_tensor(OLD_ROWS, 4, dtype=dtype)
    whole = plan.apply(old).rows
    old[broken] = torch.nan
    made = plan.apply(old).rows
    row_of_broken = plan.mapping.sources.tolist().index(broken)
    assert torch.equal(bits(made[row_of_broken]), bits(old[broken]))
    others = [r for r in range(plan.num_rows) if r != row_of_broken and r not in set(plan.mean_ids.tolist())]
    assert torch.equal(bits(made[others]), bits(whole[others]))


def test_the_matrix_is_not_changed_and_not_shared(zoo: Mapping[str, TokenizerFiles], plan: TransferPlan) -> None:
    base = zoo["unigram"]
    for made in (plan, plan_between(base, base)):
        old = random_tensor(base.vocabulary.num_ids, 3)
        before = old.clone()
        made.apply(old).rows.fill_(7)
        assert torch.equal(old, before)


def test_a_matrix_that_is_not_contiguous_gives_the_same_rows(plan: TransferPlan) -> None:
    old = random_tensor(4, OLD_ROWS).T
    assert not old.is_contiguous()
    assert torch.equal(plan.apply(old).rows, plan.apply(old.contiguous()).rows)


@pytest.mark.parametrize("rows", [0, 1, OLD_ROWS - 3])
def test_a_matrix_with_too_few_rows_is_refused(plan: TransferPlan, rows: int) -> None:
    with pytest.raises(TokenAdaptError, match=rf"has {rows} rows, but the plan uses \d+"):
        plan.apply(torch.ones(rows, 2))


def test_rows_beyond_the_base_vocabulary_do_not_count(plan: TransferPlan) -> None:
    old = random_tensor(OLD_ROWS + 40, 3)
    other = old.clone()
    other[OLD_ROWS:] = torch.nan
    assert torch.equal(plan.apply(old).rows, plan.apply(other).rows)


# --- the same tokenizer --------------------------------------------------------------------------


@DTYPES
def test_the_same_tokenizer_changes_no_bit(tokenizer: TokenizerFiles, dtype: torch.dtype) -> None:
    rows = tokenizer.vocabulary.num_ids + 7
    made = plan_between(tokenizer, tokenizer, base_rows=rows, num_rows=rows)
    old = random_tensor(rows, 4, dtype=dtype)
    old[-3:] = torch.nan
    old[5] = -0.0
    assert torch.equal(bits(made.apply(old).rows), bits(old))


def test_the_same_tokenizer_with_gaps_changes_no_bit(zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo["byte-level"]
    spread = tokenizers_zoo.renumbered(dict(base.definition), lambda i: 2 * i + 1)
    vocabulary = Vocabulary.from_definition(spread, base.role_tokens)
    made = plan_of(make_transfer((spread, vocabulary), vocabulary), "mean")
    old = random_tensor(vocabulary.num_ids, 4)
    assert torch.equal(made.apply(old).rows, old)


@pytest.mark.parametrize("change", [-4, 4])
def test_the_same_tokenizer_with_other_rows_keeps_its_tokens(tokenizer: TokenizerFiles, change: int) -> None:
    needed = tokenizer.vocabulary.num_ids
    made = plan_between(tokenizer, tokenizer, base_rows=needed + 4, num_rows=needed + 4 + change)
    old = random_tensor(needed + 4, 4)
    new = made.apply(old).rows
    assert len(new) == needed + 4 + change
    assert torch.equal(new[:needed], old[:needed])


# --- mean rows -----------------------------------------------------------------------------------


@given(st.integers(0, 2**16), st.sampled_from([0.0, 5.0, -5.0]), st.sampled_from([torch.float32, torch.float64]))
def test_mean_rows_never_win(plan: TransferPlan, seed: int, shift: float, dtype: torch.dtype) -> None:
    """Whatever the hidden state, and also where all logits are negative."""
    matrix = plan.apply(random_tensor(OLD_ROWS, 8, seed=seed) + shift).rows.to(dtype)
    states = random_tensor(200, 8, seed=seed + 1).to(dtype) * 10
    logits = states @ matrix.T
    mean_logits = logits[:, plan.mean_ids]
    logits[:, plan.mean_ids] = -torch.inf
    assert (mean_logits.max(1).values <= logits.max(1).values).all()


def test_mean_rows_never_win_where_little_of_the_base_is_left() -> None:
    """The old tokens whose logits lift the mean are not in the new vocabulary."""
    definition = plain_definition([chr(code) for code in range(0x21, 0x7F)], decoder=BYTE_LEVEL)
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition({"a": 0, "b": 1, "c": 2}, decoder=BYTE_LEVEL))
    made = plan_of(make_transfer((definition, base), target, num_rows=5), "mean")
    matrix = made.apply(random_tensor(base.num_ids, 8)).rows
    logits = random_tensor(2000, 8, seed=1) @ matrix.T
    winners = set(logits.argmax(1).tolist())
    assert winners <= {0, 1, 2}, "a padding row was generated"


def test_where_nothing_is_known_every_row_is_the_mean_of_the_old_ones() -> None:
    """There are no other new rows to take the mean of."""
    definition = plain_definition(["a", "b", "c"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(["x", "y"]))
    made = plan_of(make_transfer((definition, base), target, RandomSpace()), "mean")
    assert made.mean_ids.tolist() == [0, 1]
    old = random_tensor(3, 4)
    torch.testing.assert_close(made.apply(old).rows, old.mean(0).expand(2, 4))


def test_mean_rows_never_win_between_zoo_tokenizers(zoo: Mapping[str, TokenizerFiles]) -> None:
    for base, target in PAIRS:
        made = plan_between(zoo[base], zoo[target], name="mean", num_rows=zoo[target].vocabulary.num_ids + 2)
        matrix = made.apply(random_tensor(zoo[base].vocabulary.num_ids, 16)).rows
        winners = (random_tensor(2000, 16, seed=1) @ matrix.T).argmax(1)
        assert not set(winners.tolist()) & set(made.mean_ids.tolist()), (base, target)


# --- ids do not matter ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "local", "hybrid"])
def test_permuting_the_ids_of_the_base_changes_no_row(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["gemma-style"], zoo["byte-level"]
    ids = tokenizers_zoo.permutation(base.vocabulary.num_ids, seed=2)
    moved = tokenizers_zoo.renumbered(dict(base.definition), ids.__getitem__)
    moved_vocabulary = Vocabulary.from_definition(moved, base.role_tokens)
    old = random_tensor(len(ids), 6)
    moved_rows = torch.empty_like(old)
    moved_rows[torch.tensor(ids)] = old

    one = plan_of(make_transfer(base, target, NgramSpace()), name)
    other = plan_of(make_transfer((moved, moved_vocabulary), target, NgramSpace()), name)
    torch.testing.assert_close(one.apply(old).rows, other.apply(moved_rows).rows, atol=1e-5, rtol=0)
    assert torch.equal(one.apply(old).rows[one.copied_ids], other.apply(moved_rows).rows[one.copied_ids])


@pytest.mark.parametrize("name", ["mean", "hybrid"])
def test_permuting_the_ids_of_the_target_permutes_the_rows(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["sentencepiece-bpe"], zoo["byte-level"]
    ids = torch.tensor(tokenizers_zoo.permutation(target.vocabulary.num_ids, seed=3))
    moved = tokenizers_zoo.renumbered(dict(target.definition), lambda i: int(ids[i]))
    moved_vocabulary = Vocabulary.from_definition(moved, target.role_tokens)
    old = random_tensor(base.vocabulary.num_ids, 6)
    one = plan_of(make_transfer(base, target, NgramSpace()), name).apply(old).rows
    other = plan_of(make_transfer(base, moved_vocabulary, NgramSpace()), name).apply(old).rows
    torch.testing.assert_close(other[ids], one, atol=1e-5, rtol=0)


# --- a real model --------------------------------------------------------------------------------


def test_copied_tokens_keep_their_logits_in_a_real_model(
    zoo: Mapping[str, TokenizerFiles], zoo_folders: Mapping[str, Path], tmp_path: Path
) -> None:
    """Text of tokens that both vocabularies have: the model says the same about all of them."""
    from transformers import AutoModelForCausalLM

    base, target = zoo["byte-level"], zoo["gemma-style"]
    model = AutoModelForCausalLM.from_pretrained(
        tokenizers_zoo.tiny_model_folder(zoo_folders["byte-level"], tmp_path, tied=False)
    ).eval()
    made = plan_between(base, target)
    new_ids = made.copied_ids[torch.randperm(len(made.copied_ids), generator=torch.Generator().manual_seed(0))][:20]
    old_ids = torch.from_numpy(made.mapping.sources)[new_ids]
    with torch.no_grad():
        before = model(old_ids[None]).logits[0]
        model.get_input_embeddings().weight.data = made.apply(model.get_input_embeddings().weight.data).rows
        model.get_output_embeddings().weight.data = made.apply(model.get_output_embeddings().weight.data).rows
        after = model(new_ids[None]).logits[0]
    sources = torch.from_numpy(made.mapping.sources)[made.copied_ids]
    torch.testing.assert_close(after[:, made.copied_ids], before[:, sources])
    assert not set(after.argmax(1).tolist()) & set(made.mean_ids.tolist())
