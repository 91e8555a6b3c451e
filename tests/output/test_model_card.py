"""The output's model card: base model, licence and language of the input models, or that they are not known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from transplanting import transplant

from mergekit_tokenadapt.output.card import base_model


@pytest.fixture
def base(zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_model_folder(zoo_folders["byte-level"], tmp_path / "some-base")


def card_of(base: Path, target: Path, tmp_path: Path) -> ModelCard:
    return ModelCard.load(transplant(base, target, tmp_path / "out") / "README.md")


def test_the_card_names_base_licence_and_language(base: Path, zoo_folders: Mapping[str, Path], tmp_path: Path) -> None:
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\nlanguage:\n- en\n- 'no'\ntags: [x]\n---\n# B\n"
    )
    card = card_of(base, zoo_folders["gemma-style"], tmp_path)
    assert card.data.base_model == ["some-base"]
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", "own", "LICENSE")
    assert card.data.language == ["en", "no"]
    assert card.data.tags == ["mergekit", "merge"]
    assert "### Tokenizer" in card.text
    assert "### Licence" not in card.text


@pytest.mark.parametrize(
    "readme", [None, "# no front matter", "---\n: [broken\n---\n", "---\nlicense_name: own\n---\n", b"\xff\xfe"]
)
def test_an_unknown_licence_is_said_to_be_unknown(
    readme: str | bytes | None, base: Path, zoo_folders: Mapping[str, Path], tmp_path: Path
) -> None:
    if readme is not None:
        (base / "README.md").write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    card = card_of(base, zoo_folders["gemma-style"], tmp_path)
    assert card.data.base_model == ["some-base"]
    assert card.data.license is None
    assert card.data.license_name is None
    assert "`some-base`: not stated" in card.text


def test_hub_ids(tmp_path: Path) -> None:
    def folder(name: str, loaded_from: str | None = None) -> Path:
        made = tmp_path / name
        made.mkdir(parents=True, exist_ok=True)
        (made / "config.json").write_text(json.dumps({"_name_or_path": loaded_from}))
        return made

    assert base_model("org/model", folder("a")) == "org/model"
    assert base_model("org/model@main", folder("a")) == "org/model"
    assert base_model("org/model+org/lora", folder("a")) == "org/model"
    cached = folder("hub/models--org--a--b/snapshots/0123")
    assert base_model(str(cached), cached) == "org/a--b"
    assert base_model("./b", folder("b", "org/model")) == "org/model"
    assert base_model("./b", folder("b", "/home/me/model")) == "b"
    assert base_model(str(folder("c")), folder("c")) == "c"


def test_input_models_that_disagree(
    base: Path, zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from mergekit.options import MergeOptions

    from mergekit_tokenadapt.plugin.transplant import run_recipe

    other = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "other", seed=1)
    for folder, licence in ((base, "mit"), (other, "apache-2.0")):
        (folder / "README.md").write_text(f"---\nlicense: {licence}\nlanguage: en\n---\n")
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(folder), "parameters": {"weight": 1}} for folder in (base, other)],
        "tokenizer": {"source": str(zoo_folders["gemma-style"]), "adapt": {"method": "mean"}},
        "dtype": "float32",
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    metadata = metadata_load(out / "README.md")
    assert metadata["base_model"] == ["some-base", "other"]
    assert "license" not in metadata
    assert metadata["language"] == "en"
    assert "`some-base`: mit; `other`: apache-2.0" in (out / "README.md").read_text()
