"""`heal`: what is trained, on what, and that the loss is that of the scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from click.testing import Result
from small_models import small_config, small_model

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation import healing
from mergekit_tokenadapt.evaluation.healing import HealingOptions, Passages, heal
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

TEXT = TextSet("english", tuple(tiny_models.ENGLISH) * 20, "test")
SMALL = HealingOptions(steps=6, every=3, batch_size=3, passage_bytes=100, learning_rate=1e-2)


def rows_and_body(model: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = {id(layer.weight) for layer in layers}
    parameters = [p.detach() for p in model.parameters() if id(p) in rows]
    return parameters, [p.detach() for p in model.parameters() if id(p) not in rows]


@pytest.mark.parametrize("name", ["base", "untied"])
@pytest.mark.parametrize("train", ["rows", "all"])
def test_what_is_said_is_trained(
    name: str, train: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_model(str(request.getfixturevalue(name)))
    loaded: list[Any] = []
    monkeypatch.setattr(healing, "load_model", lambda *a, **k: loaded.append(load_model(*a, **k)) or loaded[0])
    result = heal([folder], [TEXT], HealingOptions(**{**vars(SMALL), "train": train}))
    before, after = rows_and_body(load_model(folder)), rows_and_body(loaded[0])
    assert all(not torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert all(torch.equal(a, b) == (train == "rows") for a, b in zip(before[1], after[1], strict=True))
    assert len(before[0]) == (1 if name == "base" else 2)
    curve = result["models"][0]["curve"]
    assert [point["step"] for point in curve] == [0, 3, 6]
    assert curve[-1]["bits_per_byte"] < curve[0]["bits_per_byte"]


def test_passages_fit_into_a_position_table(tmp_path: Path, byte_level_folder: Path, base: Path) -> None:
    tokenizer = load_tokenizer(str(byte_level_folder))
    config = small_config(transformers.GPT2Config, tokenizer.vocabulary.num_ids, n_positions=40)
    small_model(transformers.GPT2LMHeadModel, config).save_pretrained(tmp_path / "model")
    tokenizer.copy_to(tmp_path / "model")
    result = heal([open_model(str(folder)) for folder in (tmp_path / "model", base)], [TEXT], SMALL)
    assert result["settings"]["passage_bytes"] < 40
    assert [len(model["curve"]) for model in result["models"]] == [3, 3]


def test_the_loss_is_that_of_the_scoring(base: Path) -> None:
    folder = open_model(str(base))
    model = load_model(folder)
    passages = list(Passages.of([TEXT], SMALL).batch(0, 3))
    assert len({len(p) for p in passages}) > 1, "padding has to be there"
    scored = score_documents(Scorer(model), folder.tokenizer, passages)
    expected = sum(d.bits for d in scored) * math.log(2) / sum(d.num_bytes for d in scored)
    assert healing._nats_per_byte(model, folder, passages).item() == pytest.approx(expected, rel=1e-5)


def test_the_first_point_is_the_score_of_the_held_out_passages(base: Path) -> None:
    folder = open_model(str(base))
    held_out = Passages.of([TEXT], SMALL).held_out
    scored = score_documents(Scorer(load_model(folder)), folder.tokenizer, held_out)
    first = heal([folder], [TEXT], HealingOptions(**{**vars(SMALL), "steps": 1}))["models"][0]["curve"][0]
    assert first["bits_per_byte"] == pytest.approx(sum(d.bits for d in scored) / sum(d.num_bytes for d in scored))


def test_models_are_trained_apart_and_alike(base: Path, out: Path) -> None:
    folders = [open_model(str(f)) for f in (base, out, base)]
    curves = [m["curve"] for m in heal(folders, [TEXT], SMALL)["models"]]
    assert curves[0] == curves[2] != curves[1]


def test_passages_are_held_out_and_in_random_order() -> None:
    text = TextSet("numbers", tuple(f"{n:099d}" for n in range(200)), "test")
    passages = Passages.of([text], SMALL)
    assert set(passages.training) | set(passages.held_out) == set(text.documents)
    assert len(passages.training) + len(passages.held_out) == 200
    assert passages.held_out == text.documents[5::10]
    assert list(passages.training) != sorted(passages.training)
    assert passages == Passages.of([text], SMALL)
    first, later = (list(passages.batch(step, 3)) for step in (0, 60))
    assert first == later, "after the last passage the first comes again"


def test_too_little_text_and_too_large_steps_are_said(base: Path) -> None:
    folder = open_model(str(base))
    with pytest.raises(TokenAdaptError, match="too short to train on: 1 passages"):
        heal([folder], [TextSet("short", ("a few words",), "test")], SMALL)
    with pytest.raises(TokenAdaptError, match="diverged in 3 steps: try a smaller --learning-rate"):
        heal([folder], [TEXT], HealingOptions(**{**vars(SMALL), "train": "all", "learning_rate": 1e30}))


def test_the_command(run: Callable[..., Result], base: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXT.documents))
    arguments = ["probe-healing", base, out, "--text", f"english={tmp_path / 'text.txt'}", "--steps", 2, "--every", 1]
    result = run(*arguments, "--passage-bytes", 64, "--quiet")
    assert result.exit_code == 0, result.output
    assert "only the input and output rows trained" in result.output
    printed = json.loads(run(*arguments, "--json", "--quiet").stdout)
    assert [m["name"] for m in printed["models"]] == [str(base), str(out)]
