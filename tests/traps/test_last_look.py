"""What is found out before the output gets its name: rows that are not finite, tensors that do not fit, no room."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from mergekit.io.tensor_writer import TensorWriter
from safetensors.torch import save_file
from transplanting import EMBEDDINGS, edit_json, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods.hybrid import Hybrid
from mergekit_tokenadapt.models.written import check_written
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.two_models.restore import restore


def rewrite(folder: Path, **changes: torch.Tensor | None) -> Path:
    """Change tensors of a model; those set to None are taken out."""
    tensors = {name: tensor for name, tensor in (tensors_of(folder) | changes).items() if tensor is not None}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


# --- rows that are not finite


def test_weights_that_are_not_finite_are_refused_with_the_options(tmp_path, base, unigram_folder, monkeypatch):
    weigh = Hybrid.weigh

    def overflowing(self, problem):
        made = weigh(self, problem)
        return replace(made, weights=made.weights / 0)

    monkeypatch.setattr(Hybrid, "weigh", overflowing)
    with pytest.raises(TokenAdaptError, match=r"method hybrid: the weights of \d+ new tokens .*temperature: 0.25"):
        transplant(base, unigram_folder, tmp_path / "out", method="hybrid", temperature=0.25)
    assert not (tmp_path / "out").exists()


def test_sums_that_overflow_are_refused_with_tensor_and_token(tmp_path, base, unigram_folder):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    rewrite(folder, **{EMBEDDINGS: torch.full_like(tensors_of(folder)[EMBEDDINGS].float(), 3e38)})
    with pytest.raises(
        TokenAdaptError, match=rf"{EMBEDDINGS}: \d+ of the new rows .*of the token '.*' for one.*3e\+38"
    ):
        transplant(folder, unigram_folder, tmp_path / "out", method="calibrated")
    assert not (tmp_path / "out").exists()


def test_copied_rows_are_what_they_were_even_where_they_are_not_finite(tmp_path, base, byte_level_folder):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    matrix = tensors_of(folder)[EMBEDDINGS].clone()
    matrix[7] = torch.nan
    rewrite(folder, **{EMBEDDINGS: matrix})
    out = transplant(folder, byte_level_folder, tmp_path / "out")
    assert torch.equal(tensors_of(out)[EMBEDDINGS], matrix) or tensors_of(out)[EMBEDDINGS][7].isnan().all()


# --- rows that there is no room for


def test_rows_beyond_reason_are_refused(tmp_path, base, unigram_folder):
    for rows, pad in ((10**12, None), (None, 10**9)):
        with pytest.raises(TokenAdaptError, match=r"rows .*beyond reason for a tokenizer of"):
            transplant(base, unigram_folder, tmp_path / "out", pad=pad, **({"rows": rows} if rows else {}))


def test_rows_that_do_not_fit_into_memory_are_refused(tmp_path, base, unigram_folder, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TokenAdaptError, match=rf"rows of {EMBEDDINGS} need .* of memory, and 0.0 MB are available"):
        transplant(base, unigram_folder, tmp_path / "out")


def test_an_output_that_the_disk_has_no_room_for_is_refused(tmp_path, base, unigram_folder, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TokenAdaptError, match=r"the output needs .* on the disk, and 0.0 MB are free"):
        transplant(base, unigram_folder, tmp_path / "out")


# --- tensors that do not fit the config


def test_a_tensor_that_gets_lost_on_the_way_is_seen_at_the_end(tmp_path, base, unigram_folder, monkeypatch):
    save = TensorWriter.save_tensor
    monkeypatch.setattr(
        TensorWriter,
        "save_tensor",
        lambda self, name, *a, **k: None if "down_proj" in name else save(self, name, *a, **k),
    )
    with pytest.raises(
        TokenAdaptError, match=r"would not work: \d+ tensors are missing \(model.layers.0.mlp.down_proj"
    ):
        transplant(base, unigram_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_kind_of_misfit_is_named(tmp_path, base, unigram_folder):
    out = transplant(base, unigram_folder, tmp_path / "out")
    check_written(out, base)
    matrix = tensors_of(out)[EMBEDDINGS]
    cases = {
        r"1 tensors have no place in the model \(model.further": {"model.further.weight": torch.ones(2)},
        rf"1 tensors have another shape .*{EMBEDDINGS} \(\d+, \d+\), not": {EMBEDDINGS: matrix[:-1].clone()},
        r"1 tensors are missing \(model.norm.weight": {"model.norm.weight": None},
    }
    for n, (message, changes) in enumerate(cases.items()):
        broken = rewrite(Path(shutil.copytree(out, tmp_path / f"broken-{n}")), **changes)
        with pytest.raises(TokenAdaptError, match=message):
            check_written(broken, base)


def test_a_config_that_does_not_load_is_named(tmp_path, base, unigram_folder):
    out = transplant(base, unigram_folder, tmp_path / "out")
    edit_json(out / "config.json", hidden_act="nothing")
    with pytest.raises(TokenAdaptError, match="the output would not load"):
        check_written(out, base)


def test_what_the_base_had_is_no_fault(tmp_path, base, unigram_folder):
    folder = rewrite(Path(shutil.copytree(base, tmp_path / "base")), **{"model.further.weight": torch.ones(2)})
    out = transplant(folder, unigram_folder, tmp_path / "out")
    assert torch.equal(tensors_of(out)["model.further.weight"], torch.ones(2))


def test_a_model_with_its_own_code_is_not_built(tmp_path, base, unigram_folder):
    out = transplant(base, unigram_folder, tmp_path / "out")
    for folder in (Path(shutil.copytree(base, tmp_path / "base")), out):
        edit_json(folder / "config.json", model_type="someones", auto_map={"AutoConfig": "own.Config"})
        rewrite(folder, **{"model.norm.weight": None})
    check_written(out, tmp_path / "base")


def test_restore_looks_at_what_it_writes(tmp_path, base, unigram_folder):
    out = rewrite(transplant(base, unigram_folder, tmp_path / "out"), **{"model.norm.weight": None})
    with pytest.raises(TokenAdaptError, match=r"would not work: 1 tensors are missing \(model.norm.weight"):
        restore(str(out), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_the_number_of_rows_is_where_the_config_wants_it(tmp_path, base, unigram_folder):
    out = transplant(base, unigram_folder, tmp_path / "out")
    rows = json.loads((out / "config.json").read_text())["vocab_size"]
    assert rows == load_tokenizer(str(out)).vocabulary.num_ids == len(tensors_of(out)[EMBEDDINGS])
