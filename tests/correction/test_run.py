"""Recipes with a calibration text: the corrected rows, the report, and runs that were stopped."""

import json

import pytest
import torch
import transformers
from mergekit.options import MergeOptions
from small_models import with_position_table
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.correction import run as run_module
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.plugin.transplant import run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan


def correction_in(folder):
    return json.loads((folder / "tokenadapt.json").read_text())["inputs"][0]["correction"]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_recipe_with_text(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, tied):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    outs = [
        transplant(base, gemma_style_folder, tmp_path / name, calibration_text=str(text_file)) for name in ("a", "b")
    ]
    report = correction_in(outs[0])
    assert report["text"]["bytes"] == text_file.stat().st_size
    assert report["strength"] > 0
    assert report["after"] < report["before"]
    assert report["tokens"] > 1000
    corrected, again = map(tensors_of, outs)
    output = EMBEDDINGS if tied else HEAD
    assert not torch.equal(plain[output], corrected[output])
    assert all(torch.equal(plain[name], corrected[name]) for name in plain if name != output)
    assert all(torch.equal(corrected[name], again[name]) for name in corrected)
    plan = load_plan(outs[0] / "tokenadapt.plan")
    made = torch.ones(plan.num_rows, dtype=torch.bool)
    made[plan.mean_ids] = False
    for row in plan.mean_ids.tolist():
        torch.testing.assert_close(corrected[output][row], corrected[output][made].mean(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_report_says_what_the_output_scores(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, tied
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    plain = transplant(base, gemma_style_folder, tmp_path / "plain")
    out = transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    text = CalibrationText.read(str(text_file), 0)
    held_out = [p for n, p in enumerate(text.passages) if text.is_held_out(n)]

    def bits_per_byte(folder):
        tokenizer = load_tokenizer(str(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return sum(d.bits for d in score_documents(Scorer(model), tokenizer, held_out)) / sum(
            len(p.encode()) for p in held_out
        )

    report = correction_in(out)
    assert report["base"] == pytest.approx(bits_per_byte(base), rel=1e-3)
    assert report["before"] == pytest.approx(bits_per_byte(plain), rel=1e-3)
    assert report["after"] == pytest.approx(bits_per_byte(out), rel=1e-3)


def test_passages_fit_into_a_position_table(tmp_path, byte_level_folder, gemma_style_folder, text_file):
    base = with_position_table(byte_level_folder, tmp_path / "base", positions=64)
    out = transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    assert correction_in(out)["text"]["bytes"] == text_file.stat().st_size


def test_fits_are_reported_by_tensor(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    settings = {"method": "calibrated", "calibration_text": str(text_file)}
    out = transplant(base, gemma_style_folder, tmp_path / "out", **settings)
    fits = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["fits"]
    assert set(fits) == {EMBEDDINGS}


@pytest.mark.parametrize(("tied", "untie", "fits"), [(True, True, 1), (True, False, 1), (False, False, 2)])
@pytest.mark.parametrize("has_text", [True, False], ids=["text", "no text"])
def test_correction_and_merge_fit_each_matrix_once(
    tied,
    untie,
    fits,
    has_text,
    tmp_path,
    byte_level_folder,
    gemma_style_folder,
    tiny_model_folder,
    text_file,
    monkeypatch,
):
    from mergekit_tokenadapt.transfer import row_regression

    solved = []
    solve = row_regression._Regression.solve
    monkeypatch.setattr(row_regression._Regression, "solve", lambda self: solved.append(self) or solve(self))
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied, dtype=torch.bfloat16)
    text = {"calibration_text": str(text_file)} if has_text else {}
    out = transplant(base, gemma_style_folder, tmp_path / "out", method="calibrated", untie=untie, **text)
    assert len(solved) == fits
    reported = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["fits"]
    assert reported.keys() == tensors_of(out).keys() & {EMBEDDINGS, HEAD}
    assert len({report["explained"] for report in reported.values()}) == fits


def test_a_run_that_was_stopped_goes_on(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, own_cache, monkeypatch
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    expected = transplant(base, gemma_style_folder, tmp_path / "expected", calibration_text=str(text_file))
    assert not list(own_cache.glob("text-*/*")), "shards of a complete run are removed"
    read: list[range] = []
    shard = run_module._Reading.shard

    def stop_at_the_third(self, places):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(places)
        return shard(self, places)

    monkeypatch.setattr(run_module._Reading, "shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    assert not (tmp_path / "out").exists()
    assert len(list(own_cache.glob("text-*/*.safetensors"))) == 2
    again: list[range] = []
    monkeypatch.setattr(run_module._Reading, "shard", lambda self, p: (again.append(p), shard(self, p))[1])
    out = transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    assert again
    assert not {p.start for p in again} & {p.start for p in read}
    assert all(torch.equal(a, tensors_of(expected)[n]) for n, a in tensors_of(out).items())


def test_a_model_that_speaks_the_target_already_is_not_corrected(
    tmp_path, byte_level_folder, tiny_model_folder, text_file
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    out = transplant(base, base, tmp_path / "out", calibration_text=str(text_file))
    assert correction_in(out) is None
    assert torch.equal(tensors_of(out)[EMBEDDINGS], tensors_of(base)[EMBEDDINGS])


def test_two_models_of_one_merge_are_each_corrected_or_not(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file
):
    moving = tiny_model_folder(byte_level_folder, tmp_path / "moving")
    staying = tiny_model_folder(gemma_style_folder, tmp_path / "staying", seed=1)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (moving, staying)],
        "tokenizer": {
            "source": str(gemma_style_folder),
            "adapt": {"method": "mean", "calibration_text": str(text_file)},
        },
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    inputs = json.loads((out / "tokenadapt.json").read_text())["inputs"]
    assert inputs[0]["correction"]["strength"] > 0
    assert inputs[1]["correction"] is None
    alone = tensors_of(transplant(moving, gemma_style_folder, tmp_path / "alone", calibration_text=str(text_file)))
    expected = (alone[EMBEDDINGS] + tensors_of(staying)[EMBEDDINGS]) / 2
    torch.testing.assert_close(tensors_of(out)[EMBEDDINGS], expected)


def test_untie_corrects_the_output_and_leaves_the_input(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    out = transplant(base, gemma_style_folder, tmp_path / "out", untie=True, calibration_text=str(text_file))
    tensors = tensors_of(out)
    assert torch.equal(tensors[EMBEDDINGS], plain[EMBEDDINGS])
    assert not torch.equal(tensors[HEAD], plain[EMBEDDINGS])
