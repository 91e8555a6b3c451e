"""Tensors on disk: full disks are errors of the disk, and damaged files tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import Server
from safetensors.torch import load_file, save_file
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.numerics import matching_pursuit as omp
from mergekit_tokenadapt.storage import shards as shard_storage
from mergekit_tokenadapt.storage.tensor_writing import sealed, unsealed

TENSORS = {
    "floats": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "halves": torch.ones(5, dtype=torch.bfloat16),
    "numbers": torch.tensor([1, 2, 3]),
    "flags": torch.tensor([True, False]),
    "one": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.empty(0, 4),
}


def test_sealed_tensors_come_back_from_disk(tmp_path: Path) -> None:
    save_file(sealed({**TENSORS, "turned": TENSORS["floats"].T}), tmp_path / "file.safetensors")
    found = unsealed(load_file(tmp_path / "file.safetensors"))
    assert found is not None
    assert found.keys() == {*TENSORS, "turned"}
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


DAMAGE: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "a number": lambda t: t["numbers"].__setitem__(0, 10**7),
    "the sign of a zero": lambda t: t["floats"].__setitem__((0, 0), -0.0),
    "a tensor is gone": lambda t: t.pop("none"),
    "one is added": lambda t: t.update(more=torch.ones(1)),
    "two are exchanged": lambda t: t.update(flags=t["one"], one=t["flags"]),
    "a shape": lambda t: t.update(floats=t["floats"].reshape(4, 3)),
    "a dtype": lambda t: t.update(halves=t["halves"].half()),
    "the seal": lambda t: t["sha256"].zero_(),
    "no seal": lambda t: t.pop("sha256"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_any_change_is_seen(damage: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    stored = {name: tensor.clone() for name, tensor in sealed(TENSORS).items()}
    assert unsealed(stored) is not None
    damage(stored)
    assert unsealed(stored) is None


@pytest.mark.parametrize("damage", ["a number", "cut off", "empty"])
def test_a_damaged_shard_is_made_again(
    tmp_path: Path,
    zoo_folders: Mapping[str, Path],
    tiny_model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    """What an earlier run left, stopped before its end, has changed on the disk since."""
    monkeypatch.setenv(shard_storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(omp, "SHARD", 40)
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    donor = tiny_model_folder(zoo_folders["gemma-style"], tmp_path / "donor", seed=3)
    with monkeypatch.context() as stopped:
        stopped.setattr(shard_storage, "shutil", SimpleNamespace(rmtree=lambda _folder: None))
        expected = tensors_of(transplant(base, donor, tmp_path / "one", method="omp", k=4))
    shards = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(shards) > 1
    content = shards[1].read_bytes()
    if damage == "a number":
        tensors = load_file(shards[1])
        tensors["weights"][0] += 1
        save_file(tensors, shards[1])
    else:
        shards[1].write_bytes(content[:-9] if damage == "cut off" else b"")
    with caplog.at_level(logging.WARNING):
        found = tensors_of(transplant(base, donor, tmp_path / "two", method="omp", k=4))
    assert [str(shard) in caplog.text for shard in shards] == [n == 1 for n in range(len(shards))]
    assert "is damaged; an earlier run left it" in caplog.text
    assert torch.equal(found[EMBEDDINGS], expected[EMBEDDINGS])


def test_a_full_disk_is_an_os_error(stock: Server, tmp_path: Path) -> None:
    code = f"""
import torch
from pathlib import Path
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
try:
    save_tensors({{"x": torch.ones(5000)}}, Path({str(tmp_path / "x.safetensors")!r}))
except OSError as error:
    print(error)
"""
    assert "x.safetensors cannot be written" in stock.python(tmp_path, code, largest_file=1000)
