"""Hashes of vocabulary tensors: the same model in any file, no other model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transplanting import edit_json, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.identity import HASHES, is_described_by, vocabulary_hashes
from mergekit_tokenadapt.two_models.restore import restore

INPUT, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def model(tmp_path: Path, byte_level_folder: Path, tiny_model_folder: Callable[..., Path]) -> Path:
    return tiny_model_folder(byte_level_folder, tmp_path / "model", tied=False)


def test_the_same_tensors_in_other_files_are_the_same_model(model: Path, tmp_path: Path) -> None:
    hashes = vocabulary_hashes(model)
    assert set(hashes) == {INPUT, HEAD}
    record = {HASHES: hashes}
    pickled = shutil.copytree(model, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    tensors = load_file(model / "model.safetensors")
    assert is_described_by(record, model)
    for is_zip in (True, False):  # torch wrote plain pickles before version 1.6
        torch.save(tensors, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        assert is_described_by(record, pickled)


@pytest.mark.parametrize("name", [INPUT, HEAD])
def test_one_changed_number_is_another_model(model: Path, name: str) -> None:
    record = {HASHES: vocabulary_hashes(model)}
    tensors = load_file(model / "model.safetensors")
    tensors[name][7, 3] += 1e-3
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert is_described_by(record, model) is False


def test_what_cannot_be_read_is_another_model(model: Path, tmp_path: Path) -> None:
    record = {HASHES: vocabulary_hashes(model)}
    assert is_described_by(record, tmp_path) is False
    assert is_described_by({}, model) is None
    assert vocabulary_hashes(tmp_path) == {}


def test_a_nested_size_counts(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    edit_json(model / "config.json", vocab_size=None, text_config={"vocab_size": config["vocab_size"]})
    assert set(vocabulary_hashes(model)) == {INPUT, HEAD}


@pytest.fixture
def twins(tmp_path: Path, zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path]) -> list[Path]:
    """Two models with the same config and tokenizer."""
    return [tiny_model_folder(zoo_folders["byte-level"], tmp_path / f"twin-{n}", seed=n) for n in (1, 2)]


@pytest.mark.parametrize("earlier", [False, True], ids=["hashes", "a manifest of an earlier version"])
def test_only_the_base_itself_gives_its_rows_back(
    twins: list[Path], tmp_path: Path, gemma_style_folder: Path, earlier: bool, caplog: pytest.LogCaptureFixture
) -> None:
    base, other = twins
    out = transplant(base, gemma_style_folder, tmp_path / "out")
    if earlier:
        manifest = json.loads((out / "tokenadapt.json").read_text())
        del manifest["inputs"][0][HASHES]
        (out / "tokenadapt.json").write_text(json.dumps(manifest))
    with pytest.raises(TokenAdaptError, match="other weights; name the right one with --base"):
        restore(str(out), str(tmp_path / "back"), base=str(other))
    assert not (tmp_path / "back").exists()
    restore(str(out), str(tmp_path / "back"), base=str(shutil.move(base, tmp_path / "moved")))
    assert torch.equal(tensors_of(tmp_path / "back")[INPUT], tensors_of(tmp_path / "moved")[INPUT])
    assert ("has no hashes" in caplog.text) == earlier


def test_a_base_that_was_trained_on_in_its_place_is_refused(
    twins: list[Path], tmp_path: Path, gemma_style_folder: Path
) -> None:
    """Without --base: the manifest names the folder, but what is in it has changed."""
    out = transplant(twins[0], gemma_style_folder, tmp_path / "out")
    shutil.copyfile(twins[1] / "model.safetensors", twins[0] / "model.safetensors")
    with pytest.raises(TokenAdaptError, match="other weights"):
        restore(str(out), str(tmp_path / "back"))
