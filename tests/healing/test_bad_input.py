"""What `heal` refuses: one line, exit code 2, nothing written."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tokenizers_zoo
import transformers
from click.testing import CliRunner
from small_models import small_config, small_model
from transplanting import edit_json

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.extensions import extras
from mergekit_tokenadapt.healing import run as run_module
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


@pytest.fixture
def moved(tied_pair, tmp_path):
    """A copy of the transplant, to be spoilt."""
    return shutil.copytree(tied_pair[1], tmp_path / "moved")


def refused(*arguments):
    result = CliRunner().invoke(main, ["heal", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def test_no_manifest_and_no_base(moved, tmp_path, text_file):
    (moved / "tokenadapt.json").unlink()
    line = refused(moved, tmp_path / "out", "--text", text_file)
    assert "has no tokenadapt.json that says which model it was made from: name that one with --base" in line
    assert not (tmp_path / "out").exists()


def test_the_base_is_not_where_it_was(moved, tmp_path, text_file):
    manifest = json.loads((moved / "tokenadapt.json").read_text())
    manifest["inputs"][0]["name"] = str(tmp_path / "gone")
    (moved / "tokenadapt.json").write_text(json.dumps(manifest))
    line = refused(moved, tmp_path / "out", "--text", text_file)
    assert "there is no model folder" in line
    assert "name its folder now with --base" in line


def test_another_base_of_the_same_shape(moved, tmp_path, text_file, byte_level_folder):
    other = tokenizers_zoo.tiny_model_folder(byte_level_folder, tmp_path / "other", tied=True, seed=5)
    line = refused(moved, tmp_path / "out", "--text", text_file, "--base", other)
    assert "is not the model that" in line
    assert "other hashes" in line


def test_a_base_of_another_shape(moved, tmp_path, text_file, byte_level_folder):
    other = tokenizers_zoo.tiny_model_folder(byte_level_folder, tmp_path / "other", tied=True)
    edit_json(moved / "tokenadapt.json", inputs=None)
    edit_json(other / "config.json", num_hidden_layers=1)
    from safetensors.torch import load_file, save_file

    file = other / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if ".layers.1." not in n}, file, {"format": "pt"})
    line = refused(moved, tmp_path / "out", "--text", text_file, "--base", other)
    assert "is not the model that" in line
    assert "layers.1" in line


def test_the_model_itself_as_base(moved, tmp_path, text_file):
    edit_json(moved / "tokenadapt.json", inputs=None)
    assert "is the model itself" in refused(moved, tmp_path / "out", "--text", text_file, "--base", moved)


def test_a_short_text(moved, tmp_path):
    (tmp_path / "short.txt").write_text("one line")
    line = refused(moved, tmp_path / "out", "--text", f"short={tmp_path / 'short.txt'}")
    assert "the text short:" in line
    assert "too short to learn from and to measure on" in line
    (tmp_path / "short.txt").write_text("a word, and then another one. " * 16)
    assert "500 bytes in 10 passages are needed" in refused(moved, tmp_path / "out", "--text", tmp_path / "short.txt")


def test_a_text_that_is_not_there(moved, tmp_path):
    assert "there is no file or folder" in refused(moved, tmp_path / "out", "--text", tmp_path / "none.txt")


@pytest.mark.parametrize("package", ["peft", "accelerate"])
def test_a_package_is_missing(moved, tmp_path, text_file, monkeypatch, package):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else object())
    line = refused(moved, tmp_path / "out", "--text", text_file)
    assert f"heal needs the package {package}, which is not installed: pip install 'mergekit-tokenadapt[heal]'" in line


def test_a_quantised_model(moved, tmp_path, text_file):
    edit_json(moved / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "is quantised" in refused(moved, tmp_path / "out", "--text", text_file)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BertModel", "has no output matrix"),
        ("T5ForConditionalGeneration", "is an encoder-decoder"),
        ("PhiForCausalLM", "has a bias at its output matrix"),
        ("Gemma2ForCausalLM", "caps its logits"),
        ("MambaForCausalLM", "this model cannot get adapters"),
    ],
)
def test_a_base_that_cannot_be_healed_is_refused_before_the_swap(
    tmp_path, text_file, byte_level_folder, gemma_style_folder, name, reason
):
    tokenizer, model_class = load_tokenizer(str(byte_level_folder)), getattr(transformers, name)
    config = small_config(model_class.config_class, tokenizer.vocabulary.num_ids, pad_token_id=None)
    small_model(model_class, config).save_pretrained(tmp_path / "base")
    tokenizer.copy_to(tmp_path / "base")
    flags = ("--method=mean", "--heal", "--heal-text", str(text_file))
    result = CliRunner().invoke(
        main, ["transplant", str(tmp_path / "base"), str(gemma_style_folder), str(tmp_path / "out"), *flags]
    )
    assert result.exit_code == 2, result.output
    assert reason in result.stderr
    assert "Wrote" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk(moved, tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    line = refused(moved, tmp_path / "out", "--text", text_file)
    assert "for targets and checkpoints" in line
    assert "MERGEKIT_TOKENADAPT_CACHE" in line


def test_a_disk_has_to_hold_what_is_written(moved, tmp_path, text_file, monkeypatch):
    """Not the targets of text that is not read, nor any where the base model reads nothing."""
    monkeypatch.setattr(run_module, "TARGET_BYTES", 10**9)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**12))
    assert "for targets and checkpoints" in refused(moved, tmp_path / "out", "--text", text_file)
    flags = ("--text", text_file, "--steps=1", "--passage-bytes=100", "--passages-per-step=1", "--probe-bytes=0")
    for more in ((), ("--objective=next_token", "--steps=2", "--passages-per-step=64")):
        arguments = ["heal", moved, tmp_path / "out", *flags, *more, "--quiet", "--force"]
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output


def test_out_is_the_model(moved, text_file):
    before = (moved / "model.safetensors").read_bytes()
    assert "which is read" in refused(moved, moved, "--text", text_file, "--force")
    assert (moved / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "flag", ["--minutes=0", "--rate=nan", "--steps=0", "--rank=-1", "--passage-bytes=3", "--seed=4294967296"]
)
def test_values_out_of_range(moved, tmp_path, text_file, flag):
    result = CliRunner().invoke(main, ["heal", str(moved), str(tmp_path / "out"), "--text", str(text_file), flag])
    assert result.exit_code == 2
    assert f"'{flag.split('=')[0]}'" in result.stderr.splitlines()[-1]


def test_a_merge_has_no_one_base(moved, tmp_path, text_file):
    manifest = json.loads((moved / "tokenadapt.json").read_text())
    manifest["inputs"].append({**manifest["inputs"][0], "name": "another"})
    (moved / "tokenadapt.json").write_text(json.dumps(manifest))
    line = refused(moved, tmp_path / "out", "--text", text_file)
    assert "was merged from 2 models" in line
    assert "name one with --base" in line
