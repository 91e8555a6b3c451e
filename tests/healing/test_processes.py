"""Several processes train one model together."""

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from transplanting import tensors_of

from mergekit_tokenadapt.cli.main import main

FLAGS = (
    "--steps=4", "--looks=2", "--passages-per-step=2", "--passage-bytes=200", "--rank=4", "--rate=0.05",
    "--row-rate=0.05", "--probe-bytes=0", "--device=cpu",
)  # fmt: skip


def test_two_processes_train_what_one_trains(tied_pair, tmp_path, text_file):
    """Up to the order in which gradients are added."""
    arguments = ["heal", str(tied_pair[1]), "--text", f"lines={text_file}", *FLAGS]
    alone = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "alone")])
    assert alone.exit_code == 0, alone.output
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    module = ["-m", "mergekit_tokenadapt.cli.main", *arguments, "-o", str(tmp_path / "out")]
    cache = {"MERGEKIT_TOKENADAPT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *module], env={**os.environ, **cache}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Wrote ") == 1, "only the first process writes"
    assert done.stdout.count("4 steps of 2 passages each") == 1
    together, one = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "alone")
    before = tensors_of(tied_pair[1])
    assert any(not torch.equal(one[name], before[name]) for name in one)
    for name, tensor in one.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("engine", ["FSDP", "DeepSpeed"])
def test_engines_that_divide_a_model_are_refused(tied_pair, tmp_path, text_file, monkeypatch, engine):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_USE_{engine.upper()}", "true")
    result = CliRunner().invoke(main, ["heal", str(tied_pair[1]), str(tmp_path / "out"), "--text", str(text_file)])
    assert result.exit_code == 2
    assert f"heal cannot use {engine}: each process holds the whole model" in result.stderr


def test_a_swap_runs_in_one_process(tied_pair, tmp_path, gemma_style_folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["transplant", str(tied_pair[0]), str(gemma_style_folder), str(tmp_path / "out"), "--heal"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--heal runs in one process" in result.stderr
