"""Disks that are full or cannot be written to, and a cache that two processes share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers_zoo
import torch
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.storage import shards
from mergekit_tokenadapt.storage.ownership import mark
from mergekit_tokenadapt.storage.shards import CACHE_VARIABLE
from mergekit_tokenadapt.storage.staging import staged_folder


@pytest.mark.parametrize("largest_file", [1, 100, 3_000, 20_000, 60_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path, largest_file: int
) -> None:
    """The limit is met in the configs, the tokenizer or the weights."""
    place = tmp_path / "place"
    out = place / "out"
    ended = run("transplant", base, gemma_style_folder, out, "--quiet", "--method", "mean", largest_file=largest_file)
    assert ended.code == 2
    if largest_file > 1:  # else the message does not fit, either
        ended.assert_one_line()
    assert list(place.iterdir()) == []


def test_a_full_disk_keeps_the_folder_that_was_to_be_replaced(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path
) -> None:
    out = tmp_path / "place" / "out"
    out.mkdir(parents=True)
    mark(out)
    (out / "precious").write_text("kept")
    ended = run("transplant", base, gemma_style_folder, out, "--quiet", "--force", largest_file=20_000)
    ended.assert_one_line()
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert (out / "precious").read_text() == "kept"


def test_a_full_disk_is_one_line_for_every_writer_of_tensors(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path
) -> None:
    """safetensors raises an error of its own, which is no OSError."""
    moved, out = tmp_path / "moved", tmp_path / "place" / "out"
    assert run("transplant", base, gemma_style_folder, moved, "--quiet", "--method", "mean").code == 0
    for largest_file, command in (
        (60_000, ("restore", moved, out)),
        (60_000, ("distill-prep", moved, base, out, "--method", "mean")),
        (3_000, ("align", base, moved, f"text={moved / 'README.md'}", out)),
    ):
        ended = run(*command, "--quiet", largest_file=largest_file)
        ended.assert_one_line("File too large")
        assert list(out.parent.iterdir()) == []


def test_a_training_on_a_full_disk_is_one_line(run: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tokenizers_zoo.CORPUS * 20), encoding="utf-8")
    out = tmp_path / "place" / "out"
    ended = run("supertokens", "train", "--text", text, "--vocab-size", 500, "--quiet", out, largest_file=4_000)
    ended.assert_one_line()
    assert not out.exists()


def test_a_folder_whose_replacement_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the two renames fails: without a way back, tidying up would delete the old folder."""
    out = tmp_path / "out"
    out.mkdir()
    mark(out)
    (out / "precious").write_text("kept")
    real = os.replace

    def replace(source: Path, destination: Path) -> None:
        if Path(destination) == out and Path(source).name == "out":
            raise OSError(5, "Input/output error")
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)

    def make() -> None:
        with staged_folder(str(out), force=True) as staged:
            staged.mkdir()

    with pytest.raises(OSError, match="Input/output error"):
        make()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "precious").read_text() == "kept"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(tokenizers_zoo.CORPUS * 12), encoding="utf-8")
    return file


def test_a_cache_that_cannot_be_made_is_done_without(
    tmp_path: Path,
    base: Path,
    gemma_style_folder: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cache would be below a file; an embedding model's cache is in `tests/auxiliary/test_auxiliary_models.py`."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "good"))
    expected = tensors_of(transplant(base, gemma_style_folder, tmp_path / "one", calibration_text=str(text)))
    assert "not kept" not in caplog.text
    monkeypatch.setenv(CACHE_VARIABLE, str(text / "below"))
    found = tensors_of(transplant(base, gemma_style_folder, tmp_path / "other", calibration_text=str(text)))
    assert "partial results cannot be kept" in caplog.text
    assert torch.equal(found[EMBEDDINGS], expected[EMBEDDINGS])


def test_a_cache_that_is_full_is_done_without(
    tmp_path: Path,
    base: Path,
    gemma_style_folder: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "good"))
    expected = tensors_of(transplant(base, gemma_style_folder, tmp_path / "one", calibration_text=str(text)))

    def full_disk(tensors: Any, file: str) -> None:
        Path(file).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full_disk)
    found = tensors_of(transplant(base, gemma_style_folder, tmp_path / "other", calibration_text=str(text)))
    assert "No space left" in caplog.text
    assert torch.equal(found[EMBEDDINGS], expected[EMBEDDINGS])
    assert [p for p in (tmp_path / "good").iterdir() if p.suffix != ".lock"] == []


def test_two_calibrations_that_share_a_cache(
    tmp_path: Path, base: Path, gemma_style_folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first and then reads for itself: neither sees the other's half-made files."""
    cache = tmp_path / "shared"
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    inside: list[str] = []
    most = 0

    def work(name: str) -> None:
        nonlocal most
        with shards.shard_folder("same") as folder:
            inside.append(name)
            most = max(most, len(inside))
            made = shards.resumed(folder, "a", lambda: {"x": torch.ones(3)})
            again = shards.resumed(folder, "a", lambda: pytest.fail("made twice"))
            assert torch.equal(made["x"], again["x"])
            inside.remove(name)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert [p.suffix for p in cache.iterdir() if p.suffix != ".lock"] == []
