"""Numbers of rows in nested configs: every copy of the language model's is set, and no other vocabulary's."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from small_models import small_config, small_model
from tokenizers_zoo import added, byte_level, renumbered, write_tokenizer
from transplanting import transplant

from mergekit_tokenadapt.evaluation.checks.sizes import stale_sizes
from mergekit_tokenadapt.models.classes import ModelClass
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.vocabulary_axes import copies_of_sizes, find_tables
from mergekit_tokenadapt.output.configs import foreign_sections
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

TOKENS = ["<image>", "<video>", "<vstart>", "<vend>"]
IDS = {"image_token_id": 0, "image_token_index": 0, "video_token_id": 1, "vision_start_token_id": 2}
IDS |= {"vision_end_token_id": 3}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A tokenizer with tokens for images, another one that has them and seven tokens more, and the first one's rows."""
    folder = tmp_path_factory.mktemp("tokenizers")
    definition, config = byte_level()
    rows = load_tokenizer(str(write_tokenizer(folder / "plain", definition, config))).vocabulary.num_ids
    definition["added_tokens"] += [added(token, rows + n) for n, token in enumerate(TOKENS)]
    larger = json.loads(json.dumps(definition))
    larger["added_tokens"] += [added(f"<more{n}>", rows + len(TOKENS) + n) for n in range(7)]
    last = rows + len(TOKENS) + 6
    larger = renumbered(larger, lambda i: last - i)
    return write_tokenizer(folder / "a", definition, config), write_tokenizer(folder / "b", larger, config), rows + 4


def model_in(name: str, tokenizer: Path, rows: int, folder: Path, **options: Any) -> Path:
    model_class = getattr(transformers, name)
    config = small_config(model_class.config_class, rows, **options)
    for key, number in IDS.items():
        if hasattr(config, key):
            setattr(config, key, rows - len(TOKENS) + number)
    small_model(model_class, config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def sizes_in(config: Mapping[str, Any], path: str = "") -> dict[str, int]:
    found = {f"{path}{key}": value for key, value in config.items() if key == "vocab_size"}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= sizes_in(value, f"{path}{key}.")
    return found


MODELS: Mapping[str, Mapping[str, Any]] = {
    "LlavaForConditionalGeneration": {},
    "Idefics3ForConditionalGeneration": {},
    "SmolVLMForConditionalGeneration": {},
    "T5GemmaForConditionalGeneration": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_size_is_set(name: str, tokenizers: tuple[Path, Path, int], tmp_path: Path) -> None:
    before, after, rows = tokenizers
    base = model_in(name, before, rows, tmp_path / "base", **MODELS[name])
    old = sizes_in(json.loads((base / "config.json").read_text()))
    assert set(old.values()) == {rows}
    new = sizes_in(json.loads((transplant(base, after, tmp_path / "out") / "config.json").read_text()))
    assert {key: new[key] for key in old} == dict.fromkeys(old, rows + 7)
    getattr(transformers, name).from_pretrained(str(tmp_path / "out"))


def test_check_finds_a_size_that_was_left_behind(tokenizers: tuple[Path, Path, int], tmp_path: Path) -> None:
    before, after, rows = tokenizers
    base = model_in("LlavaForConditionalGeneration", before, rows, tmp_path / "base")
    out = transplant(base, after, tmp_path / "out")
    assert stale_sizes(open_model(str(out)), open_model(str(base))) == []
    config = json.loads((out / "config.json").read_text())
    config["vocab_size"] = config["text_config"]["vocab_size"]
    config["text_config"]["vocab_size"] = rows
    (out / "config.json").write_text(json.dumps(config))
    broken = dataclasses.replace(open_model(str(out)))
    broken.__dict__["text_config"] = {"vocab_size": rows + 7}
    assert stale_sizes(broken, open_model(str(base))) == [
        f"config.json says text_config.vocab_size {rows}, as in the base, where there are {rows + 7} rows now"
    ]


def test_a_size_that_is_the_same_by_chance_stays(tokenizers: tuple[Path, Path, int], tmp_path: Path) -> None:
    """InstructBLIP reads its instructions twice: the part that looks at images has a table of its own."""
    _, _, rows = tokenizers
    name = "InstructBlipForConditionalGeneration"
    model_class = getattr(transformers, name)
    model = ModelClass(name, small_config(model_class.config_class, rows, architectures=[name]), model_class)
    assert model.config.qformer_config.vocab_size == rows
    small = model.load({})
    tables = find_tables(model, small)
    assert set(tables.sizes) == {("text_config", "vocab_size")}
    assert copies_of_sizes(model, small, tables) == ()


def test_sections_of_another_vocabulary() -> None:
    config = {
        "vocab_size": 9,
        "text_config": {"vocab_size": 10},
        "audio_config": {"vocab_size": 128, "inner": {"x": 1}},
        "vision_config": {"hidden_size": 4},
        "thinker_config": {"vocab_size": 3, "text_config": {"vocab_size": 10}},
    }
    sizes = [("text_config", "vocab_size"), ("thinker_config", "text_config", "vocab_size")]
    assert foreign_sections(config, sizes) == {("audio_config",)}
