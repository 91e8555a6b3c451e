"""The baselines `hewitt`, `random` and `zero`, against slow, plain implementations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from tokenizers_zoo import make_transfer, with_method
from torch import Tensor
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.methods.random import Random
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.transfer.drawn_rows import Distribution, DrawnRows
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan, save_plan

DRAWN = ("hewitt", "random", "zero")
WIDTH = 6


def old_matrix(rows: int, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(rows, width, generator=generator) @ mixing + torch.arange(width)


@pytest.fixture
def plans(zoo: Mapping[str, TokenizerFiles]) -> Mapping[str, TransferPlan]:
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
    options = {"hewitt": {"covariance_scale": 0.5, "seed": 7}, "random": {"seed": 7}, "zero": {}}
    return {name: with_method(transfer, name, **given).make_plan() for name, given in options.items()}


# --- the equations, plain ------------------------------------------------------------------------


def standard_normal(plan: TransferPlan, use: str, seed: int) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed} {use}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(len(plan.composed_ids), WIDTH, generator=generator).double().numpy()


def text_rows(zoo: Mapping[str, TokenizerFiles], old: Tensor) -> list[list[float]]:
    ids = [t.id for t in zoo["byte-level"].vocabulary if t.kind is not TokenKind.SPECIAL]
    return [old[i].double().tolist() for i in ids]


@pytest.mark.parametrize("use", ["input", "output", "tied"])
def test_hewitt_has_the_mean_and_the_scaled_covariance(
    use: str, plans: Mapping[str, TransferPlan], zoo: Mapping[str, TokenizerFiles]
) -> None:
    plan, old = plans["hewitt"], old_matrix(zoo["byte-level"].vocabulary.num_ids)
    rows = text_rows(zoo, old)
    mean = [sum(row[d] for row in rows) / len(rows) for d in range(WIDTH)]
    covariance = [
        [sum((row[d] - mean[d]) * (row[e] - mean[e]) for row in rows) / len(rows) for e in range(WIDTH)]
        for d in range(WIDTH)
    ]
    root = scipy.linalg.sqrtm(0.5 * np.array(covariance))
    expected = np.array(mean) + standard_normal(plan, use, seed=7) @ root
    made = plan.apply(old, use=MatrixUse(use)).rows[plan.composed_ids]
    assert len(made) > 20
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", ["input", "output", "tied"])
def test_random_has_the_mean_and_the_deviation_of_each_column(
    use: str, plans: Mapping[str, TransferPlan], zoo: Mapping[str, TokenizerFiles]
) -> None:
    plan, old = plans["random"], old_matrix(zoo["byte-level"].vocabulary.num_ids)
    rows = text_rows(zoo, old)
    mean = [sum(row[d] for row in rows) / len(rows) for d in range(WIDTH)]
    deviation = [(sum((row[d] - mean[d]) ** 2 for row in rows) / len(rows)) ** 0.5 for d in range(WIDTH)]
    expected = np.array(mean) + standard_normal(plan, use, seed=7) * np.array(deviation)
    made = plan.apply(old, use=MatrixUse(use)).rows[plan.composed_ids]
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", ["input", "output", "tied"])
def test_zero_is_zero(use: str, plans: Mapping[str, TransferPlan], zoo: Mapping[str, TokenizerFiles]) -> None:
    plan, old = plans["zero"], old_matrix(zoo["byte-level"].vocabulary.num_ids)
    assert not plan.apply(old, use=MatrixUse(use)).rows[plan.composed_ids].any()


# --- what drawn rows are like --------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1000, 16384])
def test_many_drawn_rows_have_the_covariance_of_the_old_ones(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergekit_tokenadapt.transfer.drawn_rows.CHUNK_ROWS", chunk)
    old = old_matrix(500)
    drawn = DrawnRows.of(np.arange(40_000), torch.arange(500), Distribution.COVARIANCE)
    made = torch.cat([rows for _, rows in drawn.rows(old, MatrixUse.INPUT)])
    spread = float(old.var(0).max())
    torch.testing.assert_close(made.mean(0), old.mean(0), rtol=0, atol=0.03 * spread**0.5)
    torch.testing.assert_close(made.T.cov(), old.T.cov(correction=0), rtol=0, atol=0.03 * spread)


def test_a_covariance_without_full_rank_is_no_obstacle() -> None:
    """With fewer old rows than columns, a Cholesky factor does not exist."""
    old = old_matrix(4, width=32)
    drawn = DrawnRows.of(np.arange(50), torch.arange(4), Distribution.COVARIANCE)
    made = torch.cat([rows for _, rows in drawn.rows(old, MatrixUse.INPUT)])
    assert made.isfinite().all()
    # All old rows lie in one hyperplane of 3 dimensions, and so do the new ones.
    assert torch.linalg.matrix_rank(made - old.mean(0), rtol=1e-3) == 3


def test_input_and_output_rows_are_drawn_independently(plans: Mapping[str, TransferPlan]) -> None:
    old = old_matrix(700)
    for name in ("hewitt", "random"):
        plan = plans[name]
        one, other = (plan.apply(old, use=use).rows[plan.composed_ids] for use in (MatrixUse.INPUT, MatrixUse.OUTPUT))
        assert not torch.allclose(one, other)


def test_the_seed_decides_and_nothing_else(zoo: Mapping[str, TokenizerFiles]) -> None:
    old = old_matrix(700)
    for name in ("hewitt", "random"):
        rows = []
        for seed in (0, 0, 1):
            transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
            plan = with_method(transfer, name, seed=seed).make_plan()
            rows.append(plan.apply(old).rows)
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], rows[2])
        assert torch.equal(rows[0][plan.copied_ids], rows[2][plan.copied_ids])


def test_a_vocabulary_bias_is_drawn_too(plans: Mapping[str, TransferPlan]) -> None:
    old = old_matrix(700, width=1).flatten()
    for name in DRAWN:
        made = plans[name].apply(old, use=MatrixUse.OUTPUT).rows
        assert made.shape == (plans[name].num_rows,)
        assert made.isfinite().all()


@pytest.mark.parametrize("name", DRAWN)
def test_a_saved_plan_draws_the_same_rows(name: str, plans: Mapping[str, TransferPlan], tmp_path: Path) -> None:
    save_plan(plans[name], tmp_path / "a.plan")
    loaded = load_plan(tmp_path / "a.plan")
    old = old_matrix(700)
    assert torch.equal(plans[name].apply(old).rows, loaded.apply(old).rows)
    save_plan(loaded, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


class UnreachableAsMean(Random):
    unreachable_as_mean: ClassVar[bool] = True


def test_a_method_can_draw_and_leave_out_unreachable_tokens(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    transfer = make_transfer(zoo["wordpiece"], zoo["gemma-style"])
    plan = replace(transfer, method=UnreachableAsMean(), method_name="random").make_plan()
    assert torch.isin(plan.unreachable_ids, torch.from_numpy(transfer.new_ids)).any()
    made = plan.apply(old_matrix(700)).rows
    assert len(made[plan.mean_ids].unique(dim=0)) == 1
    assert torch.isin(plan.unreachable_ids, plan.mean_ids).all()
    save_plan(plan, tmp_path / "a.plan")
    assert torch.equal(load_plan(tmp_path / "a.plan").apply(old_matrix(700)).rows, made)


# --- as a user meets them ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_gets_these_rows(name, tied, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    out = transplant(base, gemma_style_folder, tmp_path / "out", method=name)
    plan, old, new = load_plan(out / "tokenadapt.plan"), tensors_of(base), tensors_of(out)
    for tensor, use in [(EMBEDDINGS, "tied" if tied else "input")] + [(HEAD, "output")] * (not tied):
        made = plan.apply(old[tensor], use=MatrixUse(use)).rows
        assert torch.equal(new[tensor], made)
        assert torch.equal(new[tensor][plan.copied_ids], old[tensor][plan.mapping.sources[plan.copied_ids]])
    counts = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["rows_by_reason"]
    assert counts["unresolved"] == plan.counts()["unresolved"]
    assert len(plan.composed_ids) > 20


@pytest.mark.parametrize(
    ("name", "says"), [("hewitt", "near the mean of all old rows"), ("random", "is random"), ("zero", "logit is 0")]
)
def test_explain_says_how_a_row_is_drawn(name, says, byte_level_folder, gemma_style_folder, zoo):
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
    token = str(transfer.new_ids[0])
    command = ["explain", str(byte_level_folder), str(gemma_style_folder), "--id", token, "--method", name]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert f"made by {name}" in result.output
    assert says in result.output
    assert "mean of all other rows" not in result.output


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("hewitt", "covariance_scale", -1), ("hewitt", "seed", -1), ("random", "seed", 1.5), ("random", "seed", 2**60)],
)
def test_a_value_out_of_range_is_refused(name: str, key: str, value: float) -> None:
    with pytest.raises(TokenAdaptError, match=f"method '{name}': {key}: .*not {value!r}"):
        find_method(name, {key: value})


def test_a_damaged_file_is_refused(plans: Mapping[str, TransferPlan], tmp_path: Path) -> None:
    plan, drawn = plans["random"], plans["random"].drawn
    assert drawn is not None
    for damaged, says in [
        (replace(drawn, scale=-1.0), "seed or scale"),
        (replace(drawn, seed="a"), "seed or scale"),
        (replace(drawn, new_ids=plan.copied_ids[:1]), "not among the composed ones"),
        (replace(drawn, base_ids=torch.tensor([-1])), "unknown old rows"),
    ]:
        save_plan(replace(plan, drawn=damaged), tmp_path / "bad.plan")
        with pytest.raises(TokenAdaptError, match=f"not a transfer plan: .*{says}"):
            load_plan(tmp_path / "bad.plan")
