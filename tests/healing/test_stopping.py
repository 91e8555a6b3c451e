"""Healing that is stopped, killed, late, or goes wrong."""

import os
import signal

import pytest
import torch
from quick_healing import QUICK, healed
from transplanting import tensors_of

from mergekit_tokenadapt.healing import model as model_module
from mergekit_tokenadapt.healing import run as run_module
from mergekit_tokenadapt.healing.model import HealingModel
from mergekit_tokenadapt.healing.targets import SHARD
from mergekit_tokenadapt.healing.trainer import HealingTrainer
from mergekit_tokenadapt.healing.training import Training


@pytest.fixture
def pair(tied_pair):
    return tied_pair


def at_step(monkeypatch, step, action):
    """Let something happen before a step, once."""
    original, done = HealingTrainer.training_step, []

    def training_step(trainer, *args, **options):
        if trainer.state.global_step == step and not done:
            done.append(step)
            action()
        return original(trainer, *args, **options)

    monkeypatch.setattr(HealingTrainer, "training_step", training_step)


def raise_interrupt():
    raise KeyboardInterrupt


def test_a_run_that_was_killed_after_its_last_step_makes_no_more(pair, tmp_path, text_file, monkeypatch, own_cache):
    undisturbed = healed(pair, tmp_path / "undisturbed", text_file, steps=7, looks=2)
    with monkeypatch.context() as killed:
        killed.setattr(run_module, "write_healed", lambda *_args: raise_interrupt())
        with pytest.raises(KeyboardInterrupt):
            healed(pair, tmp_path / "out", text_file, steps=7, looks=2)
    monkeypatch.setattr(HealingTrainer, "training_step", lambda *_args, **_options: pytest.fail("one more step"))
    again = healed(pair, tmp_path / "out", text_file, steps=7, looks=2)
    assert again.record == undisturbed.record
    assert again.record["steps"] == 7
    first, second = (tensors_of(tmp_path / name) for name in ("undisturbed", "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_schedule_that_is_too_long_for_the_time_is_said(pair, tmp_path, text_file, caplog, own_cache):
    healed(pair, tmp_path / "out", text_file, steps=100_000, minutes=0.3)
    assert "the learning rate's schedule is for 100000 steps, and the time is enough for about" in caplog.text


def test_a_killed_run_goes_on_and_gives_the_same(pair, tmp_path, text_file, monkeypatch, own_cache):
    undisturbed = healed(pair, tmp_path / "undisturbed", text_file)
    assert list(own_cache.glob("heal-*/*")) == []
    at_step(monkeypatch, 13, raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        healed(pair, tmp_path / "out", text_file)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in own_cache.glob("heal-*/checkpoints/*")] == ["checkpoint-8"]
    (half,) = own_cache.glob("heal-*/checkpoints")
    (half / "checkpoint-12").mkdir()  # one that was not written to its end
    seen = []
    original = HealingTrainer.training_step
    monkeypatch.setattr(
        HealingTrainer,
        "training_step",
        lambda trainer, *a, **k: (seen.append(trainer.state.global_step), original(trainer, *a, **k))[1],
    )
    again = healed(pair, tmp_path / "out", text_file)
    assert seen[0] == 8
    assert again.record == undisturbed.record
    one, two = tensors_of(tmp_path / "undisturbed"), tensors_of(tmp_path / "out")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert list(own_cache.glob("heal-*/*")) == []


def test_a_killed_run_has_the_same_passages_when_it_goes_on_with_more_time(
    pair, tmp_path, text_file, monkeypatch, own_cache
):
    """Without `steps`, the time decides what the base model reads, and so which rows are trained."""
    monkeypatch.setattr(run_module, "TEACHING_SHARE", 0.0)
    at_step(monkeypatch, 3, raise_interrupt)
    monkeypatch.setattr(Training, "affordable", lambda *_: (4, 2))
    with pytest.raises(KeyboardInterrupt):
        healed(pair, tmp_path / "out", text_file, steps=None)
    monkeypatch.setattr(run_module, "TEACHING_SHARE", 0.9)
    record = healed(pair, tmp_path / "out", text_file, steps=None).record
    assert (record["passages"], record["steps"]) == (2 * SHARD, 4)  # as many plain ones again
    assert list(own_cache.glob("heal-*/*")) == []


def test_a_signal_ends_training_with_the_best_so_far(pair, tmp_path, text_file, monkeypatch):
    at_step(monkeypatch, 13, lambda: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.default_int_handler)
    result = healed(pair, tmp_path / "out", text_file)
    assert (result.record["steps"], result.record["ended_by"]) == (14, "a signal")
    assert [look["step"] for look in result.record["curve"]] == [8, 14]
    assert result.is_better
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_reading_ends_in_time_where_the_steps_are_given(pair, tmp_path, text_file):
    """The text has more passages than the base model may read in no time: then it reads one file of them.

    As many passages are trained on without it.
    """
    record = healed(pair, tmp_path / "out", text_file, steps=10_000, minutes=0.001).record
    assert record["passages"] == 2 * SHARD
    assert record["ended_by"] == "the time limit"


def test_the_end_comes_in_time(pair, tmp_path, text_file):
    result = healed(pair, tmp_path / "out", text_file, steps=10_000, minutes=0.2)
    assert result.record["ended_by"] == "the time limit"
    assert 0 < result.record["steps"] < 10_000
    assert result.record["curve"][-1]["step"] == result.record["steps"]


def test_as_many_steps_as_the_time_allows(pair, tmp_path, text_file):
    result = healed(pair, tmp_path / "out", text_file, steps=None, minutes=0.3)
    assert result.record["steps"] > 3
    assert len(result.record["curve"]) <= QUICK["looks"] + 1


def test_a_loss_that_is_not_a_number_goes_back_to_the_best(pair, tmp_path, text_file, monkeypatch, caplog):
    original, calls = model_module.target_loss, []

    def breaking(*args, **options):
        calls.append(1)
        return original(*args, **options) * (float("nan") if len(calls) > 12 * QUICK["passages_per_step"] else 1)

    monkeypatch.setattr(model_module, "target_loss", breaking)
    result = healed(pair, tmp_path / "out", text_file)
    assert result.record["ended_by"] == "a loss that is not a number, at step 12"
    assert result.is_better
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(tmp_path / "out").values())
    assert "the loss of step 12 is not a number" in caplog.text


def test_where_training_does_not_help_the_model_stays_as_it_was(pair, tmp_path, text_file, caplog):
    result = healed(pair, tmp_path / "out", text_file, steps=2, rate=50.0, row_rate=50.0)
    assert not result.is_better
    assert "training did not help" in caplog.text
    before, after = tensors_of(pair[1]), tensors_of(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert result.record["held_out"]["after"] == result.record["held_out"]["before"]


def test_the_best_checkpoint_is_written_not_the_last(pair, tmp_path, text_file, monkeypatch):
    ratings = iter([0.5, 0.8, 0.9, 0.5])
    monkeypatch.setattr(run_module, "relative", lambda _now, _before: next(ratings))
    seen = []
    whole, finished = HealingModel.whole, HealingModel.finished
    monkeypatch.setattr(
        HealingModel, "whole", lambda model: (seen.append(model.rows.detach().clone()), whole(model))[1]
    )
    monkeypatch.setattr(
        HealingModel, "finished", lambda model: (seen.append(model.rows.detach().clone()), finished(model))[1]
    )
    healed(pair, tmp_path / "out", text_file)
    before, first, second, third, final = seen
    assert torch.equal(final, first)
    assert not any(torch.equal(final, other) for other in (before, second, third))
