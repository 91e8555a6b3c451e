"""`run_recipe` in this process: dtypes, options, and what the folder holds. The traps are in `traps/`."""

import json
import logging

import pytest
import torch
from mergekit.options import MergeOptions
from tokenizers_zoo import added, write_tokenizer
from transformers import AutoTokenizer
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks.finding import Status
from mergekit_tokenadapt.evaluation.checks.untouched import check_untouched
from mergekit_tokenadapt.evaluation.origins import find_origins
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.storage.ownership import mark
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("base") / "model", dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("method", ["mean", "local", "global", "hybrid"])
def test_rows_are_those_of_the_plan_in_the_dtype_asked_for(tmp_path, base, gemma_style_folder, method, dtype):
    out = transplant(base, gemma_style_folder, tmp_path / "out", method=method, dtype=dtype)
    old, new = tensors_of(base)[EMBEDDINGS].to(getattr(torch, dtype)), tensors_of(out)[EMBEDDINGS]
    plan = load_plan(out / "tokenadapt.plan")
    assert new.dtype == old.dtype
    assert plan.method == method
    assert len(plan.composed_ids) > 20
    for row in [*plan.copied_ids[::20].tolist(), *plan.composed_ids[::4].tolist()]:
        expected = sum(weight * old[i].float() for i, weight in plan.explain(row))
        torch.testing.assert_close(new[row].float(), expected.to(old.dtype).float(), rtol=1e-2, atol=1e-6)
    copied = plan.copied_ids
    assert torch.equal(new[copied], old[torch.from_numpy(plan.mapping.sources)[copied]])


def test_a_report_that_cannot_be_printed_costs_no_model(tmp_path, base, gemma_style_folder):
    def printing(_report):
        raise BrokenPipeError

    recipe = make_recipe(str(base), str(gemma_style_folder), {"method": "mean"})
    with pytest.raises(BrokenPipeError):
        run_recipe(recipe, str(tmp_path / "out"), MergeOptions(), listener=printing)
    assert (tmp_path / "out" / "tokenadapt.json").is_file()


def test_the_home_folder_is_written_to(tmp_path, base, gemma_style_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(str(base), str(gemma_style_folder), {"method": "mean"})
    out = run_recipe(recipe, "~/out", MergeOptions(quiet=True))
    assert out == tmp_path / "out"
    assert (out / "tokenadapt.json").is_file()
    assert not (tmp_path / "~").exists()


def test_special_ids_agree_everywhere(tmp_path, base, gemma_style_folder):
    out = transplant(base, gemma_style_folder, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    configs = [json.loads((out / name).read_text()) for name in ("config.json", "generation_config.json")]
    for role in ("bos", "eos", "pad"):
        for config in configs:
            assert config[f"{role}_token_id"] == getattr(tokenizer, f"{role}_token_id")


def test_the_manifest_says_what_was_done(tmp_path, base, gemma_style_folder):
    out = transplant(base, gemma_style_folder, tmp_path / "out", method="local", temperature=0.5)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    assert manifest["adapt"]["method"] == "local"
    assert manifest["inputs"][0]["options"] == {"temperature": 0.5}
    counts = manifest["inputs"][0]["rows_by_reason"]
    assert sum(counts[reason] for reason in ("copied", "special", "new", "padding")) == manifest["rows"]
    assert manifest["versions"]["mergekit"].startswith("0.1.")
    assert str(tmp_path) not in json.dumps(manifest["versions"])


CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def test_chat_templates_by_choice(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, caplog):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    (base / "chat_template.jinja").write_text("base: {{ messages }}")
    target = tmp_path / "target"
    files = load_tokenizer(str(gemma_style_folder))
    write_tokenizer(target, files.definition, {**files.config, "chat_template": "target: {{ messages }}"})
    mine = tmp_path / "mine.jinja"
    mine.write_text(CHAT)
    for choice, expected in (("target", "target: "), ("base", "base: "), (str(mine), "<|im_start|>")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            out = transplant(base, target, tmp_path / f"out-{expected[:4]}", chat_template=choice)
        template = AutoTokenizer.from_pretrained(str(out)).chat_template
        assert expected in template
        assert (
            "template that are not one token of the target tokenizer: '<|im_end|>', '<|im_start|>'" in caplog.text
        ) == (expected == "<|im_start|>")
    assert (tmp_path / "out-targ/tokenizer_config.json").read_bytes() == (target / "tokenizer_config.json").read_bytes()


def test_a_bare_tokenizer_json_is_enough(tmp_path, base, unigram_folder):
    bare = tmp_path / "bare" / "tokenizer.json"
    bare.parent.mkdir()
    bare.write_bytes((unigram_folder / "tokenizer.json").read_bytes())
    out = transplant(base, bare, tmp_path / "out")
    text = "some words, 12 and more"
    expected = load_tokenizer(str(unigram_folder)).fast_tokenizer().encode(text, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(str(out))(text, add_special_tokens=False).input_ids == expected


def test_a_token_map_decides_over_string_and_role(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    target = load_tokenizer(str(gemma_style_folder))
    definition = json.loads(json.dumps(target.definition))
    new_id = target.vocabulary.num_ids
    definition["added_tokens"] += [added("<turn>", new_id), added("<tool>", new_id + 1)]
    folder = write_tokenizer(tmp_path / "target", definition, dict(target.config))
    eos = load_tokenizer(str(base)).role_tokens["eos"]
    out = transplant(base, folder, tmp_path / "out", token_map={eos: "<turn>", "<tool>": "the world"})
    old, new = tensors_of(base)[EMBEDDINGS], tensors_of(out)[EMBEDDINGS]
    vocabulary = load_tokenizer(str(base)).vocabulary
    assert torch.equal(new[new_id], old[vocabulary.by_spelling[eos].id])
    pieces = load_tokenizer(str(base)).fast_tokenizer().encode("the world", add_special_tokens=False).ids
    torch.testing.assert_close(new[new_id + 1], old[pieces].mean(0))


def test_an_existing_output_is_replaced_only_by_force(tmp_path, base, unigram_folder):
    out = transplant(base, base, tmp_path / "out")
    before = (out / "tokenizer.json").read_bytes()
    with pytest.raises(TokenAdaptError, match=r"exists already.*--force"):
        transplant(base, unigram_folder, out)
    assert (out / "tokenizer.json").read_bytes() == before
    transplant(base, unigram_folder, out, force=True)
    assert (out / "tokenizer.json").read_bytes() == (unigram_folder / "tokenizer.json").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, base, unigram_folder, monkeypatch):
    from mergekit_tokenadapt.output import OutputFolder

    def full_disk(self, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OutputFolder, "finish", full_disk)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        transplant(base, unigram_folder, out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    mark(out)
    (out / "old").write_text("kept")
    with pytest.raises(OSError, match="No space left"):
        transplant(base, unigram_folder, out, force=True)
    assert (out / "old").read_text() == "kept"


def test_three_models_merge_by_task_arithmetic(tmp_path, tiny_model_folder, zoo_folders):
    folders = {
        name: tiny_model_folder(zoo_folders[name], tmp_path / name, seed=seed)
        for seed, name in enumerate(("byte-level", "gemma-style", "unigram"))
    }
    models = [{"model": str(f), "parameters": {"weight": 0.3}} for name, f in folders.items() if name != "byte-level"]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(folders["byte-level"]),
        "models": models,
        "tokenizer": {"source": str(zoo_folders["gemma-style"]), "adapt": {"method": "mean"}},
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    plans = {name: out / f"tokenadapt.plan{suffix}" for name, suffix in zip(folders, ("", ".1", ".2"), strict=True)}
    rows = {name: load_plan(plans[name]).apply(tensors_of(folders[name])[EMBEDDINGS]).rows for name in folders}
    start = rows["byte-level"]
    expected = start + 0.3 * (rows["gemma-style"] - start) + 0.3 * (rows["unigram"] - start)
    torch.testing.assert_close(tensors_of(out)[EMBEDDINGS], expected, rtol=1e-4, atol=1e-5)


def test_muted_byte_twins_are_not_taken_for_damaged_copies(tmp_path, base, gemma_style_folder):
    out = transplant(base, gemma_style_folder, tmp_path / "out", method="calibrated")
    assert json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["rows_by_reason"]["unreachable"] > 20
    output, original = (ModelFolder(f.name, f, load_tokenizer(str(f))) for f in (out, base))
    finding = check_untouched(output, find_origins(output, original))
    assert finding.status is Status.PASSED, finding
    assert finding.details["copied_rows"] > 200
