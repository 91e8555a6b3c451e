"""The method `calibrated` in a merge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan_files import load_plan


@pytest.mark.parametrize(
    ("tied", "untie", "input_use", "output_use"),
    [(True, False, "tied", None), (True, True, "input", "output"), (False, False, "input", "output")],
    ids=["tied", "untied by the recipe", "untied"],
)
def test_a_merge_knows_what_each_matrix_is_for(
    tied: bool,
    untie: bool,
    input_use: str,
    output_use: str | None,
    tmp_path: Path,
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tiny_model_folder: Callable[..., Path],
) -> None:
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    out = transplant(base, gemma_style_folder, tmp_path / "out", method="calibrated", untie=untie)
    plan, old, new = load_plan(out / "tokenadapt.plan"), tensors_of(base), tensors_of(out)
    assert torch.equal(new[EMBEDDINGS], plan.apply(old[EMBEDDINGS], use=MatrixUse(input_use)).rows)
    assert (HEAD in new) == (output_use is not None)
    if output_use is not None:
        assert torch.equal(new[HEAD], plan.apply(old.get(HEAD, old[EMBEDDINGS]), use=MatrixUse(output_use)).rows)


def test_the_manifest_says_how_well_each_matrix_was_fitted(
    tmp_path: Path,
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tiny_model_folder: Callable[..., Path],
) -> None:
    from mergekit.options import MergeOptions
    from safetensors.torch import load_file

    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
    recipe = make_recipe(str(base), str(gemma_style_folder), {"method": "calibrated"})
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    (record,) = json.loads((out / "tokenadapt.json").read_text())["inputs"]
    assert record["method"] == "calibrated"
    assert record["options"] == {"top_k": 8, "donor": False}
    assert sorted(record["fits"]) == ["lm_head.weight", "model.embed_tokens.weight"]
    assert record["fits"]["lm_head.weight"] != record["fits"]["model.embed_tokens.weight"]
    plan = load_plan(out / "tokenadapt.plan")
    uses = {EMBEDDINGS: MatrixUse.INPUT, HEAD: MatrixUse.OUTPUT}
    before, after = load_file(base / "model.safetensors"), {}
    for file in out.glob("*.safetensors"):
        after |= load_file(file)
    for name, fit in record["fits"].items():
        assert set(fit) == {"examples", "held_out", "penalty", "explained"}
        assert fit["examples"] > fit["held_out"] > 0
        applied = plan.apply(before[name], name, uses[name])
        torch.testing.assert_close(after[name], applied.rows, atol=1e-6, rtol=0)
        assert applied.report is not None
        assert fit["explained"] == pytest.approx(applied.report.explained, abs=1e-4)
        assert fit["examples"] == applied.report.examples
