"""`distill-prep`, `draft` and `restore`: exact ids, exact rows, and the way back."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transplanting import edit_json, tensors_of, transplant

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.identity import HASHES
from mergekit_tokenadapt.models.same_vocabulary import check_same_vocabulary
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.post_processors import with_leading_tokens
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan
from mergekit_tokenadapt.two_models.draft_model import accepted_by, make_draft
from mergekit_tokenadapt.two_models.old_values import OldValues
from mergekit_tokenadapt.two_models.prepare import ORIGINS
from mergekit_tokenadapt.two_models.restore import restore, row_sources

INPUT = "model.embed_tokens.weight"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="mergekit-tokenadapt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, zoo_folders, tiny_model_folder):
    """A teacher with more rows than ids, a student, and the student prepared for it."""
    root = tmp_path_factory.mktemp("pairs")
    teacher = tiny_model_folder(zoo_folders["gemma-style"], root / "teacher", seed=1, rows=640)
    student = tiny_model_folder(zoo_folders["byte-level"], root / "student", tied=False)
    arguments = ("distill-prep", teacher, student, root / "out", "--method", "mean", "--chat-template", "base")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return {"teacher": teacher, "student": student, "out": root / "out", "root": root, "printed": result.output}


def test_the_student_has_the_teachers_ids_and_rows(folders):
    teacher, out = open_model(str(folders["teacher"])), open_model(str(folders["out"]))
    check_same_vocabulary(teacher, out)
    assert out.num_rows == teacher.num_rows == 640
    assert out.config["vocab_size"] == 640
    assert load_file(folders["out"] / "model.safetensors")["lm_head.weight"].shape[0] == 640


def test_the_report_counts_every_row_once(folders):
    report = json.loads((folders["out"] / "distillation.json").read_text())
    assert sum(report["tokens"].values()) == 640
    plan = load_plan(folders["out"] / "tokenadapt.plan")
    num_tokens = len(open_model(str(folders["teacher"])).tokenizer.vocabulary)
    assert report["tokens"]["padding"] == 640 - num_tokens > 0
    assert report["tokens"]["copied"] == len(plan.mapping.ids(Reason.COPIED))
    assert report["rows"] == {"target": 640, "before": open_model(str(folders["student"])).num_rows, "after": 640}
    assert report["chat_template"]["is_that_of"] in ("before", "none")
    eos = next(t for t in report["special_tokens"] if t["role"] == "eos")
    assert eos["row_of"] != "the mean row"
    assert "padding" in folders["printed"]


def test_the_token_map_is_the_plan(folders):
    arrays = load_file(folders["out"] / "token_map.safetensors")
    plan = load_plan(folders["out"] / "tokenadapt.plan")
    report = json.loads((folders["out"] / "distillation.json").read_text())
    names = [ORIGINS[n] for n in arrays["origin"].tolist()]
    assert {name: names.count(name) for name in ORIGINS} == report["tokens"]
    for row in range(plan.num_rows):
        start, end = arrays["indptr"][row : row + 2].tolist()
        pieces = sorted(zip(arrays["pieces"][start:end].tolist(), arrays["weights"][start:end].tolist(), strict=True))
        if names[row] in ("copied", "special") and arrays["student_id"][row] >= 0:
            assert plan.explain(row) == [(int(arrays["student_id"][row]), 1.0)]
        else:
            assert sorted(plan.explain(row)) == pieces


def test_a_digit_scheme_that_changes_is_a_warning(tmp_path, zoo_folders, tiny_model_folder):
    definition = json.loads((zoo_folders["byte-level"] / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
    byte_level = {**definition["pre_tokenizer"], "use_regex": True}
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    tokenizer = shutil.copytree(zoo_folders["byte-level"], tmp_path / "digits")
    (tokenizer / "tokenizer.json").write_text(json.dumps(definition))
    teacher = tiny_model_folder(tokenizer, tmp_path / "teacher")
    student = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "student")
    result = run("distill-prep", teacher, student, tmp_path / "out", "--method", "mean")
    assert "Warning: numbers were segmented as learned and are now segmented one by one" in result.output


# --- restore -----------------------------------------------------------------------------------------


def test_of_several_copies_the_one_of_the_same_bytes_comes_back_then_eos_then_bos_then_the_lowest_id():
    """A trained model no longer has the same row for all copies: which of them is taken is no matter of chance."""
    copied, special, new = int(Reason.COPIED), int(Reason.SPECIAL), int(Reason.NEW)
    rows = [  # (reason, the old row that it is a copy of)
        (special, 1), (special, 0), (copied, 0), (copied, 1), (new, -1),
        (copied, 1), (special, 1), (special, 2), (special, 2), (copied, 4),
        (special, 5), (special, 5), (special, 6), (special, 6), (special, 6),
    ]  # fmt: skip
    reasons, sources = (np.array(column) for column in zip(*rows, strict=True))
    mapping = VocabularyMap(reasons.astype(np.int8), sources, {}, is_identity=False)
    none = torch.zeros(0, dtype=torch.int64)
    mixture = SparseRows(torch.zeros(1, dtype=torch.int64), none, torch.zeros(0))
    plan = TransferPlan(mapping, none, mixture, "mean", {}, unreachable_ids=torch.tensor([9]))
    assert row_sources(plan, 7, {"bos": 13, "eos": 11, "pad": 10}).tolist() == [2, 3, 7, -1, -1, 11, 13]
    assert row_sources(plan, 7, {"bos": 13, "eos": 14, "unk": 12}).tolist() == [2, 3, 7, -1, -1, 10, 14]
    assert row_sources(plan, 7, {"eos": 1}).tolist() == [2, 3, 7, -1, -1, 10, 12]


def test_a_trained_eos_row_comes_back_although_the_base_pads_with_eos(tmp_path, zoo_folders, tiny_model_folder):
    base = tiny_model_folder(zoo_folders["sentencepiece-bpe"], tmp_path / "base")
    out = transplant(base, zoo_folders["gemma-style"], tmp_path / "out", method="mean")
    old, new = (open_model(str(folder)).tokenizer.vocabulary.roles for folder in (base, out))
    assert old["pad"] == old["eos"]
    assert new["pad"] < new["eos"], "the pad token would win by its id"
    with_tensors(out, lambda t: t[INPUT][new["eos"]].add_(1))
    restore(str(out), str(tmp_path / "back"))
    before, after = (tensors_of(folder)[INPUT][old["eos"]] for folder in (base, tmp_path / "back"))
    assert torch.equal(after, before + 1)


def test_the_way_back_is_exact(folders, tmp_path):
    result = run("restore", folders["out"], tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert "of the base model" in result.output
    before, after = (load_file(f / "model.safetensors") for f in (folders["student"], tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((folders["student"] / name).read_text()) == json.loads((tmp_path / "back" / name).read_text())


def test_what_was_trained_comes_along_and_dropped_rows_do_not(folders, tmp_path):
    trained = tmp_path / "trained"  # as a trainer writes it: without manifest and plan
    trained.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["out"] / name, trained)
    tensors = load_file(folders["out"] / "model.safetensors")
    save_file({name: t + 1 for name, t in tensors.items()}, trained / "model.safetensors", metadata={"format": "pt"})
    done = restore(str(trained), str(tmp_path / "back"), manifest=folders["out"])
    assert done.from_model > 100
    assert done.from_base > 10
    before, after = (load_file(f / "model.safetensors") for f in (folders["student"], tmp_path / "back"))
    kept = (after[INPUT] == before[INPUT] + 1).all(dim=1)
    dropped = (after[INPUT] == before[INPUT]).all(dim=1)
    assert int(kept.sum()) == done.from_model
    assert int(dropped.sum()) == done.from_base == len(kept) - done.from_model
    plan = load_plan(folders["out"] / "tokenadapt.plan")
    assert set(plan.mapping.sources[plan.copied_ids.numpy()].tolist()) == set(np.flatnonzero(kept).tolist())
    norm = "model.norm.weight"
    assert torch.equal(after[norm], before[norm] + 1)


def test_settings_that_training_changed_stay(folders, tmp_path):
    """Further training may give a model a longer context, or other dropout."""
    out = shutil.copytree(folders["out"], tmp_path / "out")
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500_000.0}
    changed = {"rope_parameters": rope, "max_position_embeddings": 2048, "attention_dropout": 0.5}
    edit_json(out / "config.json", **changed, unk_token_id=3)  # an id of the target that the base does not state
    restore(str(out), str(tmp_path / "back"))
    base = json.loads((folders["student"] / "config.json").read_text())
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == {**base, **changed}


@pytest.mark.parametrize("is_saved", [True, False], ids=["saved by the trainer", "not saved"])
def test_processor_configs_come_back(tmp_path, zoo_folders, tiny_model_folder, is_saved):
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    processor = {"image_size": 224, "image_token": "<|im_start|>", "image_token_id": 1}
    (base / "preprocessor_config.json").write_text(json.dumps(processor))
    mapped = {"<|im_start|>": "<bos>"}
    out = transplant(base, zoo_folders["gemma-style"], tmp_path / "out", method="mean", token_map=mapped)
    assert json.loads((out / "preprocessor_config.json").read_text())["image_token"] == "<bos>"
    if is_saved:
        edit_json(out / "preprocessor_config.json", image_size=448)
    else:
        (out / "preprocessor_config.json").unlink()
    restore(str(out), str(tmp_path / "back"))
    back = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert back == {**processor, "image_size": 448 if is_saved else 224}


def test_nested_values_of_the_vocabulary_come_back_and_others_stay():
    vocabulary = [
        Vocabulary((Token(0, image, b"", TokenKind.SPECIAL), Token(1, "a", b"a", TokenKind.ORDINARY)))
        for image in ("<image>", "[IMG]")
    ]
    old = OldValues(*vocabulary, {("text", "rows")})
    now = {
        "text": {"rows": 9, "eos_token_id": 1, "pad_token_id": 0, "depth": 7},
        "parts": [{"bos_token_id": 0, "width": 8}],
        "image_token": "<image>",
        "mean": [0.5, 0.5],
    }
    then = {
        "text": {"rows": 2, "eos_token_id": [0, 1], "depth": 3},
        "parts": [{"bos_token_id": 1, "width": 4}],
        "image_token": "[IMG]",
        "mean": [0.1, 0.1],
        "size": 3,
        "image_token_id": 0,
    }
    assert old.put_into(now, then) == {
        "text": {"rows": 2, "eos_token_id": [0, 1], "depth": 7},
        "parts": [{"bos_token_id": 1, "width": 8}],
        "image_token": "[IMG]",
        "mean": [0.5, 0.5],
        "image_token_id": 0,
    }


def test_restored_shards_are_a_model(folders, tmp_path):
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folders["out"]).save_pretrained(sharded, max_shard_size="60KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    assert not (sharded / "tokenizer.json").exists()
    restore(str(sharded), str(tmp_path / "back"), manifest=folders["out"])
    back, student = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "back", folders["student"]))
    for (name, one), (_, other) in zip(back.named_parameters(), student.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def edit_manifest(out, change):
    file = out / "tokenadapt.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "tokenadapt.json").unlink(), "has no tokenadapt.json: name the folder"),
        (lambda out: (out / "tokenadapt.plan").unlink(), "cannot be restored"),
        (lambda out: edit_manifest(out, lambda m: m["adapt"].update(untie=True)), "calibration_text or untie"),
        (
            lambda out: edit_manifest(out, lambda m: m["inputs"][0].update(correction={"strength": 0.5})),
            "calibration_text or untie",
        ),
        (lambda out: edit_manifest(out, lambda m: m.update(inputs=5)), "is not a manifest of mergekit-tokenadapt"),
        (lambda out: edit_manifest(out, lambda m: m.update(inputs=[])), "is not a manifest of mergekit-tokenadapt"),
        (lambda out: edit_manifest(out, lambda m: m["inputs"][0].pop("name")), "is not a manifest"),
        (lambda out: edit_manifest(out, lambda m: m["inputs"][0].update(files=1)), "is not a manifest"),
        (lambda out: edit_manifest(out, lambda m: m["inputs"][0].update(correction=1)), "is not a manifest"),
        (lambda out: edit_manifest(out, lambda m: m.pop("adapt")), "is not a manifest of mergekit-tokenadapt"),
        (lambda out: edit_manifest(out, lambda m: m["inputs"].append(m["inputs"][0])), r"choose one .*\(0: .*, 1: "),
    ],
    ids=[
        *("no manifest", "no plan", "untied", "corrected"),
        *(
            "inputs: a number",
            "no inputs",
            "no name",
            "files: a number",
            "correction: a number",
            "no adapt",
            "two inputs",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused(folders, tmp_path, change, message):
    out = shutil.copytree(folders["out"], tmp_path / "out")
    change(out)
    with pytest.raises(TokenAdaptError, match=message):
        restore(str(out), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def with_tensors(folder, change):
    """Changes the weights of a model's folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def forget_hashes(manifest):
    """As an earlier version wrote it."""
    del manifest["inputs"][0][HASHES]


@pytest.mark.parametrize("earlier", [False, True], ids=["hashes", "a manifest of an earlier version"])
def test_a_model_whose_vocabulary_was_changed_is_refused(folders, tmp_path, earlier):
    """After a resize nobody knows which rows are whose."""
    out = shutil.copytree(folders["out"], tmp_path / "out")
    edit_json(out / "config.json", vocab_size=100)
    with_tensors(out, lambda t: t.update({name: t[name][:100].clone() for name in (INPUT, "lm_head.weight")}))
    if earlier:
        edit_manifest(out, forget_hashes)
    with pytest.raises(TokenAdaptError, match=r"its vocabulary was changed|other weights"):
        restore(str(out), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_model_that_lost_a_tensor_is_refused(folders, tmp_path):
    out = shutil.copytree(folders["out"], tmp_path / "out")
    with_tensors(out, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(TokenAdaptError, match=r"model\.norm\.weight"):
        restore(str(out), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_model_that_was_untied_gets_the_tied_rows_of_its_base(tmp_path, zoo_folders, tiny_model_folder):
    """Training may untie: the base model has its output rows under the name of the input rows."""
    from transformers import AutoModelForCausalLM

    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    out = transplant(base, zoo_folders["gemma-style"], tmp_path / "out", method="mean")
    edit_json(out / "config.json", tie_word_embeddings=False)
    with_tensors(out, lambda t: t.update({"lm_head.weight": t[INPUT] + 1}))
    done = restore(str(out), str(tmp_path / "back"))
    old, back = tensors_of(base)[INPUT], tensors_of(tmp_path / "back")
    assert torch.equal(back[INPUT], old)
    kept = (back["lm_head.weight"] == old + 1).all(dim=1)
    assert int(kept.sum()) == done.from_model
    assert torch.equal(back["lm_head.weight"][~kept], old[~kept])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert torch.equal(loaded.get_output_embeddings().weight, back["lm_head.weight"])


def test_another_base_is_refused(folders, tmp_path):
    result = run("restore", folders["out"], tmp_path / "back", "--base", folders["teacher"])
    assert result.exit_code == 2
    assert "is not the model that the manifest describes" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_the_manifest_of_another_model_is_refused(folders, tmp_path):
    other = shutil.copytree(folders["out"], tmp_path / "other")
    manifest = json.loads((other / "tokenadapt.json").read_text())
    manifest["inputs"][0]["name"] = "another"
    (other / "tokenadapt.json").write_text(json.dumps(manifest))
    with pytest.raises(TokenAdaptError, match=r"has a tokenadapt\.json of its own, which names other inputs"):
        restore(str(folders["out"]), str(tmp_path / "back"), manifest=other)
    assert not (tmp_path / "back").exists()


def test_an_input_that_is_not_there_is_refused(folders, tmp_path):
    with pytest.raises(TokenAdaptError, match=r"--input 1: .* was made from 1 model"):
        restore(str(folders["out"]), str(tmp_path / "back"), input_number=1)


def test_an_existing_folder_is_kept(folders, tmp_path):
    (tmp_path / "back").mkdir()
    with pytest.raises(TokenAdaptError, match="exists already"):
        restore(str(folders["out"]), str(tmp_path / "back"))


# --- draft -------------------------------------------------------------------------------------------


def test_a_draft_takes_the_keys_of_a_recipe(folders, tmp_path):
    flags = ("--method", "mean", "--untie", "--calibration-text", "default", "--calibration-bytes", 20_000)
    result = run("draft", folders["student"], folders["teacher"], tmp_path / "draft", *flags, "--quiet")
    assert result.exit_code == 0, result.output
    check_same_vocabulary(open_model(str(folders["student"])), open_model(str(tmp_path / "draft")))
    manifest = json.loads((tmp_path / "draft" / "tokenadapt.json").read_text())
    assert manifest["adapt"]["untie"]
    assert manifest["inputs"][0]["correction"]["text"]["source"] == "default"
    tensors = load_file(tmp_path / "draft" / "model.safetensors")
    assert tensors["lm_head.weight"].shape == tensors[INPUT].shape
    assert not torch.equal(tensors["lm_head.weight"], tensors[INPUT])


def test_the_other_model_sets_what_is_before_each_text(folders, zoo_folders, tiny_model_folder, tmp_path, caplog):
    """Engines give a draft the ids of its target's tokenizer, so a start token in its own files would never be read."""
    small = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "small")
    definition = json.loads((small / "tokenizer.json").read_text())
    bos = next(token for token in definition["added_tokens"] if token["content"] == "<|im_start|>")
    definition["post_processor"] = with_leading_tokens(
        None, [open_model(str(small)).tokenizer.vocabulary.by_id[bos["id"]]]
    )
    (small / "tokenizer.json").write_text(json.dumps(definition))
    pair = (str(folders["teacher"]), str(small))
    make_draft(*pair, str(tmp_path / "draft"), {"method": "mean"})
    assert "the base model reads '<|im_start|>' before each text" in caplog.text
    assert "--start-token" not in caplog.text
    with pytest.raises(TokenAdaptError, match=r"^start_token: base: .*teacher sets what is before each text"):
        make_draft(*pair, str(tmp_path / "other"), {"method": "mean", "start_token": "base"})
    assert not (tmp_path / "other").exists()


def test_a_draft_speaks_the_targets_ids(folders, tmp_path):
    result = run("draft", folders["teacher"], folders["student"], tmp_path / "draft", "--method", "mean")
    assert result.exit_code == 0, result.output
    assert "accepted by vllm:                   yes" in result.output
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target, draft = (AutoModelForCausalLM.from_pretrained(f) for f in (folders["teacher"], tmp_path / "draft"))
    ids = AutoTokenizer.from_pretrained(folders["teacher"])("the river", return_tensors="pt").input_ids
    plain = target.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)
    assisted = target.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0, assistant_model=draft)
    assert torch.equal(plain, assisted)


def test_rows_for_another_engine(folders, tmp_path):
    out = tmp_path / "draft"
    make_draft(str(folders["teacher"]), str(folders["student"]), str(out), {"method": "mean"}, rows=1000)
    report = json.loads((out / "draft.json").read_text())
    assert open_model(str(out)).num_rows == 1000
    assert report["accepted_by"]["vllm"] == "vocab_size is 1,000 and not 640"
    assert report["accepted_by"]["llama.cpp"] == "vocab_size is 1,000 and not 640: more than 128 apart"


def test_llama_cpp_allows_a_small_difference(folders, tmp_path):
    out = tmp_path / "draft"
    make_draft(str(folders["teacher"]), str(folders["student"]), str(out), {"method": "mean"}, rows=700)
    assert accepted_by(open_model(str(folders["teacher"])), open_model(str(out)))["llama.cpp"] == "yes"


def test_too_few_rows_are_refused(folders, tmp_path):
    result = run("draft", folders["teacher"], folders["student"], tmp_path / "draft", "--method", "mean", "--rows", 9)
    assert result.exit_code == 2
    assert "at least" in result.output
    assert not (tmp_path / "draft").exists()


def test_a_tokenizer_is_no_target(folders, tmp_path, zoo_folders):
    result = run("draft", zoo_folders["unigram"], folders["student"], tmp_path / "draft")
    assert result.exit_code == 2
    assert "is not a model folder" in result.output
