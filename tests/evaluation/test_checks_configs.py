"""`check` on outputs that earlier versions called sound: ids, sizes, positions, templates of the base left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import edit_json
from tokenizers_zoo import renumbered, tiny_model_folder, write_tokenizer
from transplanting import transplant

from mergekit_tokenadapt.evaluation.checks import Finding, Status, run_checks
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


def findings(out: Path, base: Path | None = None) -> dict[str, Finding]:
    found = run_checks(open_model(str(out)), open_model(str(base)) if base else None, run=False)
    return {f.check: f for f in found}


@pytest.fixture
def moved(zoo_folders: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A base with ids of many kinds, and a sound transplant onto the same tokens with other ids."""
    files = load_tokenizer(str(zoo_folders["byte-level"]))
    n = files.vocabulary.num_ids
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    ids = {"image_token_index": 300, "vocab_sizes": 3}
    edit_json(base / "config.json", lambda c: c.update(ids))
    edit_json(base / "generation_config.json", lambda c: c.update(sequence_bias=[[[300], -1.0]], suppress_tokens=[301]))
    target = write_tokenizer(tmp_path / "target", renumbered(files.definition, lambda i: (i + 7) % n), files.config)
    return base, transplant(base, target, tmp_path / "out")


def test_a_sound_output_passes(moved: tuple[Path, Path]) -> None:
    base, out = moved
    found = findings(out, base)
    assert {c for c, f in found.items() if f.status is Status.FAILED} == set()
    assert found["config ids"].status is Status.PASSED


STALE: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "image token": ("config.json", lambda c: c.update(image_token_index=300), "image_token_index is still 300"),
    "bias": ("generation_config.json", lambda c: c.update(sequence_bias=[[[300], -1.0]]), "sequence_bias is still"),
    "suppressed": ("generation_config.json", lambda c: c.update(suppress_tokens=[301]), "suppress_tokens is still"),
    "beyond": ("config.json", lambda c: c.update(audio_token_id=99999), "audio_token_id is 99999, beyond the rows"),
}


@pytest.mark.parametrize("case", STALE)
def test_an_id_of_the_base_is_found(case: str, moved: tuple[Path, Path]) -> None:
    base, out = moved
    file, change, message = STALE[case]
    edit_json(out / file, change)
    finding = findings(out, base)["config ids"]
    assert finding.status is Status.FAILED
    assert message in finding.message
    assert findings(out)["config ids"].status is (Status.FAILED if case == "beyond" else Status.PASSED)


def test_a_lost_chat_template_is_found_with_and_without_the_base(zoo_folders: Any, tmp_path: Path) -> None:
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    out = transplant(base, zoo_folders["gemma-style"], tmp_path / "out")
    for finding in (findings(out)["chat template"], findings(out, base)["chat template"]):
        assert finding.status is Status.NOTED
        assert "--chat-template base" in finding.message
    assert (
        findings(tiny_model_folder(zoo_folders["gemma-style"], tmp_path / "plain"))["chat template"].message == "none"
    )


@pytest.mark.parametrize(
    ("limit", "status"), [(512, Status.PASSED), (10**5, Status.NOTED), (None, Status.PASSED), (10**30, Status.PASSED)]
)
def test_a_limit_beyond_the_positions(limit: int | None, status: Status, zoo_folders: Any, tmp_path: Path) -> None:
    """A Llama alone may read on; one whose tokenizer truncated texts in the base should not."""
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    out = transplant(base, zoo_folders["gemma-style"], tmp_path / "out")
    edit_json(out / "tokenizer_config.json", lambda c: c.update(model_max_length=limit))
    assert findings(out)["length"].status is status
    assert findings(out, base)["length"].status is (Status.FAILED if status is Status.NOTED else status)
