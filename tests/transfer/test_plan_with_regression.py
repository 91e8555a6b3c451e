"""A plan that holds a regression: what it makes of a matrix, what it saves, and what bad rows do to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers_zoo
import torch
from planted_rows import (
    SPACES,
    Formula,
    all_usable,
    pieces_of,
    plan_between,
    plan_of,
    planted,
    predicted,
    random_tensor,
    regression_of,
    relative_error,
    small_world,
    spaces,
)
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_transfer, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer import row_regression as regression_module
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.plan import AppliedRows
from mergekit_tokenadapt.transfer.plan_files import load_plan, save_plan


def examples_of(applied: AppliedRows) -> int:
    """Number of examples that the regression was fitted on."""
    assert applied.report is not None
    return applied.report.examples


@pytest.mark.parametrize(("base", "target"), [("byte-level", "unigram"), ("byte-level", "wordpiece")])
def test_a_planted_composition_is_recovered_under_the_pieces_of_a_real_plan(
    base: str, target: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    made = plan_between(zoo[base], zoo[target])
    formula = Formula(seed=21, width=4)
    matrix = planted(made, formula, zoo[base].vocabulary.num_ids, seed=22, width=4)
    applied = made.apply(matrix)
    rows, report = applied.rows, applied.report
    assert report is not None
    assert report.explained > 0.999
    assert report.examples == len(regression_of(made).examples)
    features = regression_of(made)
    checked = [(i, p) for i, p in zip(features.new_ids.tolist(), pieces_of(features.new), strict=True) if len(p) > 1]
    assert len(checked) > 100
    expected = torch.stack([formula(matrix, pieces) for _, pieces in checked])
    assert relative_error(rows[[i for i, _ in checked]], expected) < 2e-3
    mean = uniform(make_transfer(zoo[base], zoo[target]).pieces).apply(matrix)
    assert relative_error(mean[features.new.pieces.counts > 1], expected) > 0.3, "which their mean is not"


def test_each_matrix_gets_its_own_fit(zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    num_rows = zoo["byte-level"].vocabulary.num_ids
    input_formula, output_formula = Formula(seed=23, width=4), Formula(seed=24, width=4)
    old_input = planted(made, input_formula, num_rows, seed=25, width=4)
    old_output = planted(made, output_formula, num_rows, seed=26, width=4)
    noise = random_tensor(num_rows, 4, seed=27)
    features = regression_of(made)
    ids = features.new_ids[features.new.pieces.counts > 1]
    pieces = [p for p in pieces_of(features.new) if len(p) > 1]
    for old, formula in [(old_input, input_formula), (old_output, output_formula)]:
        expected = torch.stack([formula(old, p) for p in pieces])
        applied = made.apply(old)
        assert relative_error(applied.rows[ids], expected) < 2e-3
        assert applied.report is not None
        assert applied.report.explained > 0.999
    report = made.apply(noise).report
    assert report is not None
    assert report.explained < 0.3
    alone = plan_between(zoo["byte-level"], zoo["unigram"])
    assert torch.equal(alone.apply(old_output).rows, made.apply(old_output).rows), "whatever it was applied to before"


def test_a_fit_is_used_where_it_is_handed_over_and_nowhere_else(
    zoo: Mapping[str, TokenizerFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=31)
    solved: list[int] = []
    solve = regression_module._Regression.solve
    monkeypatch.setattr(regression_module._Regression, "solve", lambda self: solved.append(1) or solve(self))
    first = made.apply(matrix)
    assert len(solved) == 1
    for fit in (first.fit, made.fit(matrix)):
        again = made.apply(matrix.clone(), use=MatrixUse.INPUT, fit=fit)
        assert again.fit is fit
        assert torch.equal(again.rows, first.rows)
    assert len(solved) == 2, "one for each fit, none for the applications"
    assert torch.equal(made.apply(matrix).rows, first.rows)
    assert len(solved) == 3, "a plan remembers nothing"
    plain = plan_of(make_transfer(zoo["byte-level"], zoo["unigram"]), "mean")
    assert plain.apply(matrix, fit=first.fit).report is None, "nothing is predicted with it"
    changed = matrix.clone()
    changed[int(regression_of(made).example_ids[0])] *= 1.5
    own, others = made.apply(changed).rows, made.apply(changed, fit=first.fit).rows
    assert not torch.equal(own[made.composed_ids], others[made.composed_ids])
    changed[int(regression_of(made).example_ids[1])] = torch.nan
    assert made.apply(changed).report != made.apply(matrix).report


@pytest.mark.parametrize(("use", "share"), [("input", 0), ("tied", 0.25), ("output", 0.5)])
def test_rows_that_predict_keep_a_share_of_their_pieces(
    use: str, share: float, zoo: Mapping[str, TokenizerFiles]
) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    features = regression_of(made)
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 16, seed=28)
    fitted = predicted(features, matrix, all_usable(matrix))
    assert fitted is not None
    rows = made.apply(matrix, use=MatrixUse(use)).rows
    for new_id, prediction in zip(features.new_ids.tolist(), fitted[0], strict=True):
        pieces, weights = zip(*made.explain(new_id), strict=True)
        kept = torch.tensor(weights) @ matrix[list(pieces)]
        expected = share * kept + (1 - share) * prediction
        torch.testing.assert_close(rows[new_id], expected, atol=1e-4, rtol=0)
    untouched = made.copied_ids
    assert torch.equal(rows[untouched], made.apply(matrix).rows[untouched])


@pytest.mark.parametrize("base", ["byte-level", "gemma-style", "wordpiece"])
@spaces
def test_other_ids_of_the_base_give_the_same_rows(base: str, space: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    old, target = zoo[base], zoo["unigram" if base == "byte-level" else "byte-level"]
    ids = tokenizers_zoo.permutation(old.vocabulary.num_ids, seed=5)
    renumbered = tokenizers_zoo.renumbered(dict(old.definition), ids.__getitem__)
    moved_vocabulary = Vocabulary.from_definition(renumbered, old.role_tokens)
    matrix = random_tensor(len(ids), 5, seed=28)
    moved_matrix = torch.empty_like(matrix)
    moved_matrix[torch.tensor(ids)] = matrix
    one = plan_of(make_transfer(old, target, SPACES[space]()))
    other = plan_of(make_transfer((renumbered, moved_vocabulary), target, SPACES[space]()))
    applied, moved = one.apply(matrix), other.apply(moved_matrix)
    torch.testing.assert_close(moved.rows, applied.rows, atol=1e-4, rtol=0)
    assert torch.equal(applied.rows[one.copied_ids], moved.rows[one.copied_ids])
    assert examples_of(applied) == examples_of(moved) > 50


@pytest.mark.parametrize("target", ["byte-level", "gemma-style", "wordpiece"])
@spaces
def test_other_ids_of_the_target_give_the_same_rows(target: str, space: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base, new = zoo["unigram"], zoo[target]
    ids = torch.tensor(tokenizers_zoo.permutation(new.vocabulary.num_ids, seed=6))
    moved = tokenizers_zoo.renumbered(dict(new.definition), lambda i: int(ids[i]))
    moved_vocabulary = Vocabulary.from_definition(moved, new.role_tokens)
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=29)
    one = plan_of(make_transfer(base, new, SPACES[space]())).apply(matrix).rows
    other = plan_of(make_transfer(base, moved_vocabulary, SPACES[space]())).apply(matrix).rows
    torch.testing.assert_close(other[ids], one, atol=1e-4, rtol=0)


@pytest.mark.parametrize("space", SPACES)
def test_a_second_run_is_bit_identical(space: str, zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    base, target = zoo["gemma-style"], zoo["byte-level"]
    matrix = random_tensor(base.vocabulary.num_ids, 6, seed=30)
    made = []
    for n in range(2):
        shuffled = tokenizers_zoo.shuffled_entries(dict(base.definition), seed=n)
        vocabulary = Vocabulary.from_definition(shuffled, base.role_tokens)
        plan = plan_of(make_transfer((shuffled, vocabulary), target, SPACES[space]()))
        save_plan(plan, tmp_path / f"{n}.plan")
        made.append(plan.apply(matrix).rows)
    assert torch.equal(*made)
    assert (tmp_path / "0.plan").read_bytes() == (tmp_path / "1.plan").read_bytes()


def test_a_saved_plan_gives_the_same_rows_and_the_same_file(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    save_plan(made, tmp_path / "a.plan")
    loaded = load_plan(tmp_path / "a.plan")
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=31)
    one, other = made.apply(matrix), loaded.apply(matrix)
    assert torch.equal(one.rows, other.rows)
    assert one.report == other.report
    assert examples_of(one) > 100
    assert len(loaded.unreachable_ids) > 0
    assert torch.equal(made.unreachable_ids, loaded.unreachable_ids)
    first, second = regression_of(made).tensors(), regression_of(loaded).tensors()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first)
    save_plan(loaded, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_a_plan_without_one_of_its_features_is_refused(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_plan(plan_between(zoo["byte-level"], zoo["gemma-style"]), tmp_path / "good.plan")
    with safe_open(tmp_path / "good.plan", framework="pt") as opened:
        metadata = opened.metadata()
    names = [name for name in load_file(tmp_path / "good.plan") if name.startswith("regression.")]
    assert len(names) == 4 + 2 * 6
    for name in names:
        tensors = load_file(tmp_path / "good.plan")
        del tensors[name]
        save_file(tensors, tmp_path / "a.plan", metadata=metadata)
        with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
            load_plan(tmp_path / "a.plan")


def test_a_matrix_with_too_few_rows_for_the_examples_is_refused() -> None:
    """Whichever rows the compositions need, the examples and neighbours need theirs."""
    spellings = [*"abcdefgh", *(x + y for x in "abcdefgh" for y in "abcdefgh")]
    definition = plain_definition(
        spellings, decoder=BYTE_LEVEL, merges=[f"{x} {y}" for x in "abcdefgh" for y in "abcdefgh"]
    )
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*"abcdefgh", "abc"], decoder=BYTE_LEVEL))
    made = plan_of(make_transfer((definition, base), target, RandomSpace()))
    made.apply(random_tensor(base.num_ids, 2))
    with pytest.raises(TokenAdaptError, match="has 20 rows, but the plan uses 72"):
        made.apply(random_tensor(20, 2))


def test_every_row_has_one_origin(zoo: Mapping[str, TokenizerFiles]) -> None:
    for base, target in [("byte-level", "gemma-style"), ("wordpiece", "gemma-style"), ("unigram", "byte-level")]:
        made = plan_between(zoo[base], zoo[target], num_rows=zoo[target].vocabulary.num_ids + 3)
        origins = torch.cat([made.copied_ids, made.composed_ids, made.mean_ids])
        assert sorted(origins.tolist()) == list(range(made.num_rows))


def test_copied_rows_are_bit_identical_and_predicted_ones_are_not_the_mean_of_pieces(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["unigram"], RandomSpace())
    made = plan_of(transfer)
    matrix = planted(made, Formula(seed=32, width=4), transfer.base.vocabulary.num_ids, seed=33, width=4)
    rows = made.apply(matrix).rows
    assert torch.equal(rows[made.copied_ids], matrix[made.mapping.sources[made.copied_ids.numpy()]])
    plain = plan_of(transfer, "mean").apply(matrix).rows
    new = torch.from_numpy(transfer.new_ids)
    assert not torch.isclose(rows[new], plain[new]).all(dim=1).any()


def test_the_mean_row_is_the_mean_of_the_predicted_rows_and_not_of_what_they_replace(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 5, seed=34)
    rows = made.apply(matrix).rows
    others = torch.cat([made.copied_ids, made.composed_ids])
    assert len(made.mean_ids) > 0
    expected = rows[others].double().mean(0).float()
    torch.testing.assert_close(rows[made.mean_ids], expected.expand(len(made.mean_ids), 5), atol=1e-6, rtol=0)


def test_rows_made_from_a_text_are_the_mean_of_its_pieces(zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["byte-level"], zoo["gemma-style"]
    made = plan_of(make_transfer(base, target, RandomSpace(), token_map={"<start_of_turn>": " the river the"}))
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=34)
    row = made.apply(matrix).rows[target.vocabulary.by_spelling["<start_of_turn>"].id]
    the, river = (base.vocabulary.find(text).id for text in (" the", " river"))
    torch.testing.assert_close(row, (2 * matrix[the] + matrix[river]) / 3)


def test_a_bias_is_calibrated_as_any_matrix() -> None:
    transfer, num_rows = small_world(["abcde", "hgfed", "acaca"])
    made = plan_of(transfer)
    bias = planted(made, Formula(seed=40, width=1), num_rows, seed=41, width=1)[:, 0]
    applied = made.apply(bias)
    rows = applied.rows
    assert rows.shape == (11,)
    assert applied.report is not None
    assert applied.report.explained > 0.99
    assert torch.equal(rows, made.apply(bias[:, None]).rows[:, 0])
    assert torch.equal(made.apply(bias.reshape(-1, 1, 1)).rows, rows.reshape(-1, 1, 1))


def test_a_bias_of_zeros_stays_zero() -> None:
    transfer, num_rows = small_world(["abcde", "hgfed"])
    made = plan_of(transfer)
    assert torch.equal(made.apply(torch.zeros(num_rows)).rows, torch.zeros(10))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bad_rows_do_not_spread(
    bad: float, dtype: torch.dtype, zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    base, target = zoo["byte-level"], zoo["unigram"]
    made = plan_between(base, target)
    features = regression_of(made)
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=50).to(dtype)
    with caplog.at_level(logging.WARNING):
        whole = made.apply(matrix)
    assert caplog.text == ""
    answers = features.example_ids[::40].tolist()
    pieces = features.examples.pieces.ids[:10].tolist() + features.new.pieces.ids[:10].tolist()
    neighbours = features.new.neighbours[:5, 0].tolist()
    broken = sorted({*answers, *pieces, *neighbours})
    for row in broken:
        matrix[row, row % 5] = bad
    with caplog.at_level(logging.WARNING):
        applied = made.apply(matrix)
    rows = applied.rows
    assert f"{len(broken)} old rows hold NaN or infinite numbers" in caplog.text
    copied_from = made.mapping.sources[made.copied_ids.numpy()]
    is_bad = np.isin(copied_from, broken)
    assert is_bad.any()
    expected_bad = made.copied_ids[torch.from_numpy(is_bad)].tolist()
    assert (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist() == expected_bad
    assert examples_of(whole) - examples_of(applied) == len(set(broken) & set(features.example_ids.tolist()))
    kept = made.copied_ids[torch.from_numpy(~is_bad)]
    assert torch.equal(rows[kept], whole.rows[kept])


def test_where_all_examples_are_bad_there_is_no_map(
    zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    base = zoo["byte-level"]
    made = plan_between(base, zoo["unigram"])
    matrix = random_tensor(base.vocabulary.num_ids, 3, seed=53)
    matrix[regression_of(made).example_ids] = torch.nan
    with caplog.at_level(logging.WARNING):
        rows = made.apply(matrix).rows
    assert "too few base tokens to fit the regression" in caplog.text
    assert rows[made.composed_ids].isfinite().all()
    assert rows[made.mean_ids].isfinite().all()


@pytest.mark.parametrize("name", ["gemma-style", "sentencepiece-bpe", "byte-level"])
def test_the_same_tokenizer_changes_no_bit(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo[name], zoo[name])
    assert len(made.unreachable_ids) == 0
    matrix = random_tensor(zoo[name].vocabulary.num_ids, 4, seed=55)
    matrix[5] = torch.nan
    matrix[7] = -0.0
    rows = made.apply(matrix).rows
    assert torch.equal(rows.view(torch.int32), matrix.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:])
def test_the_dtype_stays(dtype: torch.dtype, zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    matrix = (0.02 * random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=57)).to(dtype)
    before = matrix.clone()
    applied = made.apply(matrix)
    rows = applied.rows
    assert rows.dtype == dtype
    assert rows.isfinite().all()
    assert torch.equal(matrix, before)
    assert examples_of(applied) > 300
    exact = made.apply(matrix.float()).rows
    torch.testing.assert_close(rows.float(), exact, atol=1e-4, rtol=1e-2)
