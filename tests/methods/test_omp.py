"""Orthogonal matching pursuit: against mergekit's own, and on what goes wrong in real matrices."""

import json

import pytest
import torch
from atoms import embedding_like, normal
from mergekit.options import MergeOptions
from mergekit.tokensurgeon import batch_omp
from safetensors.torch import load_file, save_file

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import omp
from mergekit_tokenadapt.numerics import matching_pursuit as pursuit_module
from mergekit_tokenadapt.numerics.inner_products import DenseSearch, ScreenedSearch
from mergekit_tokenadapt.numerics.matching_pursuit import matching_pursuit
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.transfer.examples import shared_rows
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan_files import load_plan

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_combination_of_few_atoms_is_found_again():
    atoms = normal(500, 64)
    ids = torch.tensor([[3, 141, 59], [26, 5, 358]])
    weights = torch.tensor([[3.0, -2.0, 1.0], [1.5, 1.0, -1.0]])
    targets = (atoms[ids] * weights[:, :, None]).sum(dim=1)
    found = matching_pursuit(targets, atoms, 64, quiet=True)
    assert found.counts.tolist() == [3, 3]
    for n in range(2):
        assert dict(found.row(n)) == pytest.approx(
            dict(zip(ids[n].tolist(), weights[n].tolist(), strict=True)), abs=1e-5
        )


@pytest.mark.parametrize("atoms", [normal(700, 48), embedding_like(700, 48, 1)], ids=["normal", "like embeddings"])
@pytest.mark.parametrize("kind", [DenseSearch, ScreenedSearch])
def test_rows_are_those_of_mergekit(small_blocks, atoms, kind):
    targets, base = embedding_like(40, 48, 2), normal(700, 24, seed=3)
    ids, coefficients = batch_omp(targets, atoms, 16)
    theirs = torch.bmm(coefficients[:, None], base[ids])[:, 0]
    ours = matching_pursuit(targets, atoms, 16, quiet=True, search=kind(atoms))
    assert torch.equal(ours.ids.view(40, 16), ids)
    assert torch.allclose(ours.apply(base), theirs, atol=1e-4)


@pytest.mark.parametrize("kind", [DenseSearch, ScreenedSearch])
def test_twins_and_zeros_do_no_harm(small_blocks, kind):
    half = embedding_like(150, 24, 6)
    atoms = torch.cat([half, half + 1e-7, torch.zeros(4, 24), half[:5] + half[5:10]])
    targets = torch.cat([embedding_like(20, 24, 7), torch.zeros(1, 24), half[:3]])
    found = matching_pursuit(targets, atoms, 64, quiet=True, search=kind(atoms))
    assert found.weights.isfinite().all()
    assert found.counts[:20].max() <= 24  # there are no more directions
    assert found.counts[20] == 0
    assert torch.allclose(found.apply(atoms), targets, atol=1e-4)


def test_more_steps_than_atoms():
    atoms, targets = normal(5, 32), normal(3, 32, seed=1)
    found = matching_pursuit(targets, atoms, 64, quiet=True)
    assert found.counts.tolist() == [5, 5, 5]
    best = torch.linalg.lstsq(atoms.T, targets.T).solution.T @ atoms
    assert torch.allclose(found.apply(atoms), best, atol=1e-5)


def test_a_token_does_not_depend_on_those_beside_it(small_blocks):
    atoms, targets = embedding_like(600, 48, 8), embedding_like(30, 48, 9)
    together = matching_pursuit(targets, atoms, 12, quiet=True, search=ScreenedSearch(atoms))
    alone = [matching_pursuit(t[None], atoms, 12, quiet=True, search=ScreenedSearch(atoms)) for t in targets]
    assert torch.equal(together.ids, torch.cat([one.ids for one in alone]))
    assert torch.allclose(together.weights, torch.cat([one.weights for one in alone]), rtol=1e-5)


def test_a_run_that_was_stopped_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr(pursuit_module, "SHARD", 4)
    atoms, targets = normal(100, 16), normal(10, 16, seed=1)
    whole = matching_pursuit(targets, atoms, 4, quiet=True)

    class Stopping(DenseSearch):
        steps_left = 6  # one shard, and half of the second

        def best(self, residuals_BD):
            self.steps_left -= 1
            if self.steps_left < 0:
                raise KeyboardInterrupt
            return super().best(residuals_BD)

    with pytest.raises(KeyboardInterrupt):
        matching_pursuit(targets, atoms, 4, quiet=True, resumes=True, search=Stopping(atoms))
    assert [file.name for file in tmp_path.glob("omp-*/*")] == ["00000000.safetensors"]
    going_on = Stopping(atoms)
    going_on.steps_left = 8  # the two shards that are missing, and no more
    found = matching_pursuit(targets, atoms, 4, quiet=True, resumes=True, search=going_on)
    assert torch.equal(found.ids, whole.ids)
    assert torch.equal(found.weights, whole.weights)
    assert not list(tmp_path.glob("omp-*/"))


def test_nothing_to_make_and_nothing_to_make_it_from():
    assert len(matching_pursuit(normal(0, 8), normal(20, 8), 4, quiet=True)) == 0
    with pytest.raises(ValueError, match="cannot combine atoms"):
        matching_pursuit(normal(3, 8), normal(0, 8), 4, quiet=True)


# --- as a method


def transplant(base, target, out, **adapt):
    recipe = make_recipe(str(base), str(target), {"method": "omp", **adapt})
    return run_recipe(recipe, str(out), MergeOptions(quiet=True))


def tensors_of(folder):
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(str(file)).items()}


def change(folder, name, rows, value):
    """Overwrite rows of a tensor of a model folder."""
    (file,) = folder.glob("*.safetensors")
    tensors = {key: tensor.clone() for key, tensor in load_file(str(file)).items()}
    tensors[name][rows] = value
    save_file(tensors, str(file), metadata={"format": "pt"})


def new_rows(plan):
    """Ids of the new tokens that were made."""
    return plan.composed_ids[torch.from_numpy(plan.mapping.reasons)[plan.composed_ids] == int(Reason.NEW)]


@pytest.fixture(params=[True, False], ids=["tied donor", "untied donor"])
def pair(request, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    """(base, donor) model folders."""
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    return base, tiny_model_folder(gemma_style_folder, tmp_path / "donor", tied=request.param, seed=5)


def test_new_rows_are_mergekits_combinations(pair, tmp_path, monkeypatch):
    base, donor = pair
    seen = []

    def spy(problem):
        seen.append(shared_rows(problem))
        return seen[-1]

    monkeypatch.setattr(omp, "shared_rows", spy)
    out = transplant(base, donor, tmp_path / "out", k=8)
    plan = load_plan(out / "tokenadapt.plan")
    there = tensors_of(donor)
    donor_rows = torch.cat([there[name] for name in (EMBEDDINGS, HEAD) if name in there], dim=1)
    new = new_rows(plan)
    assert len(new) > 20
    assert len(seen[0]) > 50
    made, old = tensors_of(out)[EMBEDDINGS], tensors_of(base)[EMBEDDINGS]
    ids, coefficients = batch_omp(donor_rows[new], donor_rows[list(seen[0].values())], 8)
    theirs = torch.bmm(coefficients[:, None], old[torch.tensor(list(seen[0]))[ids]])[:, 0]
    assert torch.allclose(made[new], theirs, atol=1e-4)


def test_all_directions_give_back_a_planted_map(pair, tmp_path):
    base, donor = pair
    plan = load_plan(transplant(base, donor, tmp_path / "plain") / "tokenadapt.plan")
    there = tensors_of(donor)
    columns = torch.cat([there[name] for name in (EMBEDDINGS, HEAD) if name in there], dim=1)
    true = columns @ normal(columns.shape[1], 32)
    planted = base.with_name("planted")  # mergekit remembers the tensors of a folder that it has seen
    base.rename(planted)
    sources = torch.from_numpy(plan.mapping.sources)
    change(planted, EMBEDDINGS, sources[plan.copied_ids], true[plan.copied_ids])
    made = tensors_of(transplant(planted, donor, tmp_path / "out", k=columns.shape[1]))[EMBEDDINGS]
    new = new_rows(plan)
    assert torch.allclose(made[new], true[new], atol=2e-2)


def test_runs_are_the_same_and_the_plan_can_be_applied_again(pair, tmp_path):
    base, donor = pair
    outs = [transplant(base, donor, tmp_path / name) for name in ("a", "b")]
    assert outs[0].joinpath("tokenadapt.plan").read_bytes() == outs[1].joinpath("tokenadapt.plan").read_bytes()
    rows = [tensors_of(out)[EMBEDDINGS] for out in outs]
    assert torch.equal(*rows)
    plan = load_plan(outs[0] / "tokenadapt.plan")
    assert torch.equal(plan.apply(tensors_of(base)[EMBEDDINGS]).rows, rows[0])


def test_bad_rows_do_not_spread(pair, tmp_path, caplog):
    base, donor = pair
    plan = load_plan(transplant(base, donor, tmp_path / "plain") / "tokenadapt.plan")
    new = new_rows(plan)
    bad_base, bad_donor = base.with_name("bad-base"), donor.with_name("bad-donor")
    base.rename(bad_base)
    donor.rename(bad_donor)
    copied = plan.copied_ids
    change(bad_base, EMBEDDINGS, int(plan.mapping.sources[copied[40]]), float("nan"))
    change(bad_donor, EMBEDDINGS, torch.stack([copied[50], new[0]]), float("inf"))
    out = transplant(bad_base, bad_donor, tmp_path / "out")
    made = tensors_of(out)[EMBEDDINGS]
    assert made[new].isfinite().all()
    assert "1 old rows hold NaN or infinite numbers" in caplog.text
    unresolved = plan.counts()["unresolved"]
    plan = load_plan(out / "tokenadapt.plan")
    assert plan.counts()["unresolved"] == unresolved + 1
    assert new[0] in plan.mean_ids
    assert int(plan.mapping.sources[copied[50]]) not in plan.composition.ids


def test_without_shared_tokens_there_is_an_error(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(omp, "shared_rows", lambda _problem: {})
    with pytest.raises(TokenAdaptError, match="of the tokens that both models have"):
        transplant(*pair, tmp_path / "out")


def test_a_target_without_weights_is_refused(pair, tmp_path, gemma_style_folder):
    with pytest.raises(TokenAdaptError, match="this method needs a target with weights"):
        transplant(pair[0], gemma_style_folder, tmp_path / "out")


def test_options_are_checked_and_kept(pair, tmp_path):
    with pytest.raises(ValueError, match="k: takes a number greater than or equal to 1, not 0"):
        transplant(*pair, tmp_path / "out", k=0)
    out = transplant(*pair, tmp_path / "out", k=3)
    assert load_plan(out / "tokenadapt.plan").options == {"k": 3}
    assert json.loads((out / "tokenadapt.json").read_text())
