"""The hash that tells whether a model folder has changed."""

import os

import pytest

from mergekit_tokenadapt.storage import hashing
from mergekit_tokenadapt.storage.model_state import state_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_only_files_of_the_model_count(folder):
    before = [state_of(folder, by_content=by_content) for by_content in (False, True)]
    (folder / "README.md").write_text("a card")
    assert [state_of(folder, by_content=by_content) for by_content in (False, True)] == before
    (folder / "additional_chat_templates").mkdir()
    for name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "additional_chat_templates/tools.jinja"):
        before += [state_of(folder), state_of(folder, by_content=True)]
        (folder / name).write_text("{}")
        assert not set(before) & {state_of(folder), state_of(folder, by_content=True)}


def test_a_file_that_is_written_anew(folder):
    before, content = state_of(folder), state_of(folder, by_content=True)
    file = folder / "model.safetensors"
    file.write_bytes(b"weights")
    os.utime(file, ns=(0, 0))
    assert state_of(folder) != before
    assert state_of(folder, by_content=True) == content


def test_other_bytes_of_the_same_size_and_time(folder, monkeypatch):
    monkeypatch.setattr(hashing, "BLOCK", 3)  # the change is in the last of several blocks
    file = folder / "model.safetensors"
    os.utime(file, ns=(0, 0))
    before, content = state_of(folder), state_of(folder, by_content=True)
    file.write_bytes(b"weightz")
    os.utime(file, ns=(0, 0))
    assert state_of(folder) == before
    assert state_of(folder, by_content=True) != content
