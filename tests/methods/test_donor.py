"""Methods that use the rows of the target's model."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan, save_plan

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def transplant(base, target, out, **adapt):
    return run_recipe(make_recipe(str(base), str(target), adapt), str(out), MergeOptions(quiet=True))


def tensors_of(folder):
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(str(file)).items()}


@pytest.fixture(params=[True, False], ids=["tied donor", "untied donor"])
def planted(request, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    """(base, donor, true rows): the true rows are a linear map of the donor's, and the base has the shared ones."""
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    donor = tiny_model_folder(gemma_style_folder, tmp_path / "donor", tied=request.param, seed=5)
    plan = load_plan(transplant(base, donor, tmp_path / "plain", method="calibrated") / "tokenadapt.plan")
    generator = torch.Generator().manual_seed(0)
    there = tensors_of(donor)
    columns = torch.cat([there[name] for name in (EMBEDDINGS, HEAD) if name in there], dim=1)
    true = columns @ torch.randn((columns.shape[1], 32), generator=generator) + 1
    # In a folder of its own: mergekit remembers the tensors of a folder that it has seen.
    base = shutil.copytree(base, tmp_path / "planted")
    (file,) = base.glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(str(file)).items()}
    sources = torch.from_numpy(plan.mapping.sources)
    tensors[EMBEDDINGS][sources[plan.copied_ids]] = true[plan.copied_ids]
    save_file(tensors, str(file), metadata={"format": "pt"})
    return base, donor, true


# `calibrated` has many more columns, only the tokens that can be split as examples, and keeps a share of the pieces.
@pytest.mark.parametrize(
    ("adapt", "share", "tolerance"),
    [({"method": "donor_linear"}, 0, 1e-3), ({"method": "calibrated", "donor": True}, 0.25, 0.2)],
)
def test_a_planted_map_is_found(planted, tmp_path, adapt, share, tolerance):
    base, donor, true = planted
    out = transplant(base, donor, tmp_path / "out", **adapt)
    plan = load_plan(out / "tokenadapt.plan")
    rows = tensors_of(out)[EMBEDDINGS]
    assert len(plan.composed_ids) > 20
    pieces = plan.composition.apply(tensors_of(base)[EMBEDDINGS].float())
    predicted = (rows[plan.composed_ids] - share * pieces) / (1 - share)
    error = (predicted - true[plan.composed_ids]).square().sum() / true[plan.composed_ids].var(0).sum()
    assert error / len(plan.composed_ids) < tolerance
    fits = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["fits"]
    assert fits[EMBEDDINGS]["explained"] > 1 - 2 * tolerance


@pytest.mark.parametrize("adapt", [{"method": "donor_linear"}, {"method": "calibrated", "donor": True}], ids=str)
def test_the_donor_makes_rows_of_tokens_that_the_base_cannot_spell(tmp_path, zoo_folders, tiny_model_folder, adapt):
    """WordPiece has no bytes, so tokens with other characters have no pieces."""
    base = tiny_model_folder(zoo_folders["wordpiece"], tmp_path / "base", tied=False)
    donor = tiny_model_folder(zoo_folders["gemma-style"], tmp_path / "donor", seed=5)
    out = transplant(base, donor, tmp_path / "out", **adapt)
    plan = load_plan(out / "tokenadapt.plan")
    spelt = plan.composition.counts > 0
    without = plan.composed_ids[~spelt]
    assert len(without) > 20
    tensors = tensors_of(out)
    for name in (EMBEDDINGS, HEAD):
        rows = tensors[name].float()
        mean = rows[torch.cat([plan.copied_ids, plan.composed_ids])].mean(dim=0)
        assert ((rows[without] - mean).norm(dim=1) > 1e-3).all()
        assert rows[without].norm(dim=1).mean() > 0.3 * rows[plan.composed_ids[spelt]].norm(dim=1).mean()


def test_runs_are_the_same(planted, tmp_path):
    base, donor, _ = planted
    outs = [transplant(base, donor, tmp_path / name, method="donor_linear") for name in ("a", "b")]
    assert outs[0].joinpath("tokenadapt.plan").read_bytes() == outs[1].joinpath("tokenadapt.plan").read_bytes()
    first, second = map(tensors_of, outs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_plan_explains_and_is_not_applied_without_its_donor(planted, tmp_path):
    base, donor, _ = planted
    out = transplant(base, donor, tmp_path / "out", method="donor_linear")
    plan = load_plan(out / "tokenadapt.plan")
    assert plan.explain(int(plan.composed_ids[0]))
    with pytest.raises(TokenAdaptError, match="lacks rows or states of a model"):
        plan.apply(tensors_of(base)[EMBEDDINGS])
    save_plan(plan, tmp_path / "again.plan")
    assert load_plan(tmp_path / "again.plan").needs_donor


@pytest.mark.parametrize("option", [("--method", "donor_linear"), ("--method", "calibrated", "-O", "donor=true")])
def test_a_target_without_weights_is_refused(planted, tmp_path, gemma_style_folder, option):
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["transplant", str(planted[0]), str(gemma_style_folder), str(out), *option])
    assert result.exit_code == 2
    assert "this method needs a target with weights" in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_a_donor_with_too_few_rows_is_refused(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    ids = load_tokenizer(str(gemma_style_folder)).vocabulary.num_ids
    donor = tiny_model_folder(gemma_style_folder, tmp_path / "donor", rows=ids - 1)
    with pytest.raises(TokenAdaptError, match=f"has {ids - 1} rows, but its tokenizer has {ids} ids"):
        transplant(base, donor, tmp_path / "out", method="donor_linear")


def test_explain_shows_the_pieces(planted):
    base, donor, _ = planted
    token = next(t for t in load_tokenizer(str(donor)).vocabulary if t.bytes == b"A")
    result = CliRunner().invoke(
        main, ["explain", str(base), str(donor), "--token", token.label, "--method", "donor_linear"]
    )
    assert result.exit_code == 0, result.output
