"""The change of the output rows that is fitted to the targets."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from mergekit_tokenadapt.correction import correction as correction_module
from mergekit_tokenadapt.correction.correction import Positions, choose_strength, fit_change
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows


def planted(num_positions=3000, num_rows=40, width=12, *, seed=0, opposite=False):
    """Rows that are off by a map and by shifts, and positions that tell. `opposite`: the held-out ones lie."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    true = normal((num_rows, width))
    rows = true - true @ normal((width, width)).T * 0.1 - normal((num_rows, width)) * 0.2
    states = normal((num_positions, width))
    probabilities = (states @ true.T).softmax(dim=1)
    held_out = torch.arange(num_positions) % 10 == 5
    if opposite:
        probabilities[held_out] = (states[held_out] @ (2 * rows - true).T).softmax(dim=1)
    indptr = torch.arange(num_positions + 1) * num_rows
    targets = SparseRows(indptr, torch.arange(num_rows).repeat(num_positions), probabilities.flatten())
    next_ids = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return rows, true, Positions(states, next_ids, targets, held_out)


def bits_of(matrix, positions):
    """Bits of the held-out positions by plain arithmetic."""
    states, chosen = positions.states_PD[positions.is_held_out], positions.next_ids[positions.is_held_out]
    losses = torch.nn.functional.cross_entropy(states @ matrix.T, chosen, reduction="sum")
    return float(losses / torch.tensor(2.0).log())


MADE = torch.ones(40, dtype=torch.int64)
"""The origins of planted rows."""


@pytest.mark.parametrize("num_copied", [0, 15, 40])
def test_the_fit_gets_closer_to_planted_rows(num_copied: int) -> None:
    rows, true, positions = planted(20_000)
    origins = (torch.arange(40) >= num_copied).long()[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    fitted = fit_change(rows, origins, positions, quiet=True)
    strength, before, after = choose_strength(fitted.held_out_bits)
    bits = partial(bits_of, positions=positions)
    corrected = fitted.change().scaled(strength).apply(rows, origins)
    assert strength > 0
    assert before == pytest.approx(bits(rows), rel=1e-4)
    assert after == pytest.approx(bits(corrected), rel=1e-4)
    assert bits(rows) - bits(corrected) > 0.5 * (bits(rows) - bits(true))


def test_the_maps_do_their_share():
    """They are what carries over to tokens that the text never shows."""
    rows, true, positions = planted(20_000)
    change = fit_change(rows, MADE, positions, quiet=True).change()
    mapped = replace(change, shifts_AD=torch.zeros_like(change.shifts_AD)).apply(rows, MADE)
    before, after, best = (bits_of(matrix, positions) for matrix in (rows, mapped, true))
    assert before - after > 0.2 * (before - best)


@pytest.mark.parametrize("max_active", [40, 39], ids=["all active", "one rests"])
def test_the_scale_of_hidden_states_does_not_matter(monkeypatch, max_active):
    """States eight times as large and rows an eighth: the same logits, so the same model."""
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", max_active)
    rows, _, positions = planted()
    plain = fit_change(rows, MADE, positions, quiet=True)
    larger = fit_change(rows / 8, MADE, replace(positions, states_PD=positions.states_PD * 8), quiet=True)
    for strength in (0, 0.5, 1):
        assert larger.held_out_bits(strength) == pytest.approx(plain.held_out_bits(strength), rel=1e-5)
    torch.testing.assert_close(larger.change().maps_ODD, plain.change().maps_ODD)
    torch.testing.assert_close(larger.change().shifts_AD, plain.change().shifts_AD / 8)


@pytest.mark.parametrize("max_active", [40, 20], ids=["all active", "some rest"])
def test_held_out_text_may_have_tokens_with_the_mean_row(monkeypatch, max_active):
    """Special tokens of the target without a counterpart, for instance: their row is the mean of the others."""
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", max_active)
    rows, _, positions = planted(20_000)
    origins = MADE.clone()
    origins[39] = -1
    rows[39] = rows[:39].mean(dim=0)
    held_out = positions.is_held_out
    assert int((positions.next_ids[held_out] == 39).sum()) > 10
    fitted = fit_change(rows, origins, positions, quiet=True)
    for strength in (0.0, 1.0):
        changed = fitted.change().scaled(strength).apply(rows, origins)
        logits = positions.states_PD[held_out] @ changed.T
        losses = logits[:, :39].logsumexp(dim=1) - logits.gather(1, positions.next_ids[held_out][:, None]).squeeze(1)
        assert fitted.held_out_bits(strength) == pytest.approx(float(losses.sum()) / 0.6931472, rel=1e-4)


def test_what_does_not_help_is_not_done():
    rows, _, positions = planted(opposite=True)
    strength, before, after = choose_strength(fit_change(rows, MADE, positions, quiet=True).held_out_bits)
    assert strength == 0
    assert after == before


def test_rows_that_are_no_tokens_take_no_part():
    rows, _, positions = planted()
    plain = fit_change(rows, MADE, positions, quiet=True)
    padded = torch.cat([rows, torch.full((5, rows.shape[1]), 50.0)])
    origins = torch.cat([MADE, torch.full((5,), -1)])
    with_padding = fit_change(padded, origins, positions, quiet=True)
    assert plain.held_out_bits(1) == with_padding.held_out_bits(1)
    changed = with_padding.change().apply(padded, origins)
    assert torch.equal(plain.change().apply(rows, MADE), changed[:40])
    torch.testing.assert_close(changed[40:], changed[:40].mean(0).expand(5, -1))


def test_a_token_that_the_text_is_silent_about_is_not_shifted():
    """The model gives it probability, the targets do not: moving it away would be learned from nothing."""
    rows, _, positions = planted()
    silent = torch.cat([rows, rows[:2]])
    origins = torch.ones(42, dtype=torch.int64)
    change = fit_change(silent, origins, positions, quiet=True).change()
    place = {row: n for n, row in enumerate(change.ids.tolist())}
    assert set(place) == set(range(42)), "they are active, for the model's sake"
    shifts = change.shifts_AD.norm(dim=1)
    assert shifts[[place[40], place[41]]].tolist() == [0, 0]
    assert shifts[[place[n] for n in range(40)]].min() > 0


def test_trust_grows_with_the_fitted_evidence_and_not_with_the_held_out() -> None:
    from mergekit_tokenadapt.correction.correction import ENOUGH, _trust

    targets = SparseRows.from_triplets(
        torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 2]), torch.tensor([0.25, 0.75, 1.0, 1.0]), 3
    )
    trust = _trust(targets, torch.tensor([True, True, False]), 4)
    expected = [[1.25 / (1.25 + ENOUGH)], [0.75 / (0.75 + ENOUGH)], [0.0], [0.0]]
    torch.testing.assert_close(trust, torch.tensor(expected))


@pytest.mark.parametrize(("num_resting", "tolerance"), [(5, 0.02), (10, 1e-6)], ids=["a sample", "all others"])
def test_few_active_tokens_with_others_resting(
    monkeypatch: pytest.MonkeyPatch, num_resting: int, tolerance: float
) -> None:
    """With the cap on active tokens below the vocabulary, the normalisation is about right, exact where all rest."""
    rows, _, positions = planted(4000, num_rows=300)
    origins = torch.arange(300) % 2
    exact = fit_change(rows, origins, positions, quiet=True).held_out_bits(0)
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", 290)
    monkeypatch.setattr(correction_module, "RESTING", num_resting)
    some = fit_change(rows, origins, positions, quiet=True)
    assert len(some.change().ids) == 290
    assert some.held_out_bits(0) == pytest.approx(exact, rel=tolerance)
    assert some.held_out_bits(1) < some.held_out_bits(0)
    # Those that rest get the map of their origin, too.
    changed = bits_of(some.change().apply(rows, origins), positions)
    assert some.held_out_bits(1) == pytest.approx(changed, rel=tolerance)


def test_a_text_with_more_kinds_of_tokens_than_may_be_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the held-out part goes on with are active all the same: their loss is asked for."""
    rows, _, positions = planted(300, num_rows=60)
    judged = positions.next_ids[positions.is_held_out].unique()
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", len(judged) - 5)
    fitted = fit_change(rows, torch.zeros(60, dtype=torch.int64), positions, quiet=True)
    assert torch.equal(fitted.change().ids, judged)
    assert len(judged) < len(positions.next_ids.unique())
    assert fitted.held_out_bits(0) == pytest.approx(bits_of(rows, positions), rel=1e-6)


def test_rows_that_are_no_tokens_do_not_choose_the_active_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a padding row would win, the model's probabilities of tokens would count for nothing."""
    rows, _, positions = planted(600, num_rows=60)
    # Of the targets and of the text only ten tokens are left: for the others, what the model says has to decide.
    few = SparseRows.from_triplets(torch.arange(600), torch.arange(600) % 10, torch.ones(600), 600)
    positions = replace(positions, targets=few, next_ids=torch.arange(600) % 10)
    copied = torch.zeros(60, dtype=torch.int64)
    exact = fit_change(rows, copied, positions, quiet=True).held_out_bits(0)
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", 30)
    fitted = fit_change(rows, copied, positions, quiet=True)
    assert fitted.held_out_bits(0) == pytest.approx(exact, rel=1e-6), "the others, all of one origin, rest"
    plain = fitted.change()
    mass = (positions.states_PD @ rows.T).softmax(dim=1).sum(0)
    mass[:10] = torch.inf
    assert plain.ids.tolist() == sorted(mass.topk(30).indices.tolist())
    padded = torch.cat([rows, torch.full((5, rows.shape[1]), 50.0)])
    origins = torch.cat([copied, torch.full((5,), -1)])
    assert torch.equal(fit_change(padded, origins, positions, quiet=True).change().ids, plain.ids)
