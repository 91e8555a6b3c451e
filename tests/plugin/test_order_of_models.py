"""A merge takes its configs from the first model of the recipe, in every process."""

import json

import pytest
from mergekit.options import MergeOptions
from transplanting import edit_json

from mergekit_tokenadapt.plugin.transplant import run_recipe


@pytest.mark.parametrize("first", range(6))
def test_configs_are_those_of_the_first_model(
    first, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder
):
    models = []
    for n in range(6):
        models.append(tiny_model_folder(byte_level_folder, tmp_path / f"model-{n}", seed=n))
        edit_json(models[-1] / "config.json", rms_norm_eps=1e-6 * (n + 1))
    models = [*models[first:], *models[:first]]
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(model), "parameters": {"weight": 1}} for model in models],
        "tokenizer": {"source": str(gemma_style_folder), "adapt": {"method": "mean"}},
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    assert json.loads((out / "config.json").read_text())["rms_norm_eps"] == 1e-6 * (first + 1)
