"""Folders as users really have them: pointers, unfinished downloads, missing shards, files for folders, adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from click.testing import CliRunner
from tokenizers_zoo import tiny_model_folder
from transformers import AutoModelForCausalLM
from transplanting import tensors_of, transplant

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.transplant import make_recipe
from mergekit_tokenadapt.storage.whole_files import POINTER
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

PULL = "is a Git LFS pointer, not the file itself: run `git lfs pull`"


@pytest.fixture
def base(tmp_path: Path, byte_level_folder: Path) -> Path:
    return tiny_model_folder(byte_level_folder, tmp_path / "base")


@pytest.fixture
def sharded(tmp_path: Path, base: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "sharded")
    return tmp_path / "sharded"


def make_pointer(file: Path) -> None:
    file.write_bytes(POINTER + b"v1\noid sha256:" + b"0" * 64 + b"\nsize 9085657\n")


def make_empty(file: Path) -> None:
    file.write_bytes(b"")


def refusal(base: Path | str, target: Path | str, out: Path) -> str:
    """The error of the command; nothing is written."""
    result = CliRunner().invoke(main, ["transplant", str(base), str(target), str(out), "--method", "mean", "--quiet"])
    assert (result.exit_code, out.exists()) == (2, False), result.output
    lines: list[str] = result.output.strip().splitlines()
    assert len([line for line in lines if line.startswith("Error: ")]) == 1
    return lines[-1]


@pytest.mark.parametrize(("damage", "says"), [(make_pointer, PULL), (make_empty, "empty: download it again")])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_of_the_base(
    tmp_path: Path, base: Path, unigram_folder: Path, damage: Callable[[Path], None], says: str, file: str
) -> None:
    damage(base / file)
    said = refusal(base, unigram_folder, tmp_path / "out")
    assert file in said
    assert says in said


@pytest.mark.parametrize(("damage", "says"), [(make_pointer, PULL), (make_empty, "empty: download it again")])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "vocab.txt", "tekken.json", "x.tiktoken"])
def test_files_of_the_target(tmp_path: Path, base: Path, damage: Callable[[Path], None], says: str, file: str) -> None:
    (tmp_path / "target").mkdir()
    damage(tmp_path / "target" / file)
    said = refusal(base, tmp_path / "target", tmp_path / "out")
    assert file in said
    assert says in said


def test_a_shard_that_is_missing(tmp_path: Path, sharded: Path, unigram_folder: Path) -> None:
    shards = sorted(sharded.glob("model-*"))
    shards[-1].unlink()
    (sharded / f"{shards[-1].name}.incomplete").write_bytes(b"x")
    said = refusal(sharded, unigram_folder, tmp_path / "out")
    assert f"1 of {len(shards)} files of weights are missing, {shards[-1].name} for one: download them again" in said
    assert f"the download of {shards[-1].name}.incomplete was not finished" in said
    result = CliRunner().invoke(evaluate, ["check", str(sharded)])
    assert "are missing" in result.output


def test_a_shard_that_is_a_pointer(tmp_path: Path, sharded: Path, unigram_folder: Path) -> None:
    make_pointer(sorted(sharded.glob("model-*"))[-1])
    assert PULL in refusal(sharded, unigram_folder, tmp_path / "out")


def test_shards_without_their_index(tmp_path: Path, sharded: Path, unigram_folder: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    shards = sorted(sharded.glob("model-*"))
    shards[0].unlink()
    said = refusal(sharded, unigram_folder, tmp_path / "out")
    assert f"it holds {len(shards) - 1} of {len(shards)} shards of weights, but no model.safetensors.index.json" in said


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "holds no weights"),
        (["model.safetensors.part"], "the download of model.safetensors.part was not finished: start it again"),
        (
            [".cache/huggingface/download/abc.incomplete"],
            "the download of .cache/huggingface/download/abc.incomplete was not finished",
        ),
        (["model-Q4_K_M.gguf"], "it holds model-Q4_K_M.gguf, which is in the format of another program"),
        (["consolidated.00.pth"], "it holds consolidated.00.pth, which is in the format of another program"),
    ],
    ids=["nothing", "a part", "the hub's client", "GGUF", "Meta's format"],
)
def test_a_base_without_weights(tmp_path: Path, base: Path, unigram_folder: Path, files: list[str], says: str) -> None:
    (base / "model.safetensors").unlink()
    for file in files:
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).write_bytes(b"x")
    assert says in refusal(base, unigram_folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["./nope", "~/nope-nowhere", "/nowhere/at/all", "../nope"])
def test_what_is_not_there_is_not_looked_for_on_the_hub(
    tmp_path: Path, base: Path, unigram_folder: Path, name: str
) -> None:
    assert "there is no such folder" in refusal(name, unigram_folder, tmp_path / "out")
    assert "there is no such folder" in refusal(base, name, tmp_path / "out")


def test_a_folder_without_a_tokenizer_or_a_config(tmp_path: Path, base: Path, unigram_folder: Path) -> None:
    tokenizer = tmp_path / "kept"
    shutil.copytree(base, tokenizer)
    for file in base.glob("tokenizer*"):
        file.unlink()
    said = refusal(base, unigram_folder, tmp_path / "out")
    assert "holds no tokenizer.json or other file of a tokenizer: download it, too" in said
    (tokenizer / "config.json").unlink()
    assert "it has no config.json: download it, too" in refusal(tokenizer, unigram_folder, tmp_path / "out")


@pytest.mark.parametrize("file", ["model.gguf", "model.safetensors", "tokenizer.model", "README.md", "config.json"])
def test_a_file_in_place_of_a_folder(tmp_path: Path, base: Path, unigram_folder: Path, file: str) -> None:
    """The folder around it may hold a tokenizer: that of another model."""
    if not (base / file).exists():
        (base / file).write_bytes(b"GGUF")
    says = "format of llama.cpp: use" if file.endswith("gguf") else f"give the folder around it, {str(base)!r}"
    assert says in refusal(base, base / file, tmp_path / "out")
    assert says in refusal(base / file, unigram_folder, tmp_path / "out")
    with pytest.raises(TokenAdaptError, match=r"it is a file, and no tokenizer\.json"):
        load_tokenizer(str(base / file))


# --- adapters ------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_as_recipes_do_it(
    tmp_path: Path, base: Path, adapter: Path, byte_level_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["transplant", "base+adapter", str(byte_level_folder), "out", "--method", "mean", "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    before, after = tensors_of(base), tensors_of(tmp_path / "out")
    merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    for name, tensor in merged.state_dict().items():
        assert name not in after or torch.equal(after[name], tensor), name
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all("q_proj" in name for name in changed)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter", "base", "out"]
    shown = CliRunner().invoke(main, ["explain", "base+adapter", str(byte_level_folder), "--token", "ing"])
    assert shown.exit_code == 0, shown.output


def test_an_adapter_by_itself(tmp_path: Path, base: Path, adapter: Path, unigram_folder: Path) -> None:
    said = refusal(adapter, unigram_folder, tmp_path / "out")
    assert f"it is a LoRA adapter of the model {base}: give both, as BASE+adapter" in said
    said = refusal(base, adapter, tmp_path / "out")
    assert f"it is a LoRA adapter of the model {base}: give that one's tokenizer" in said


def test_what_is_no_adapter(tmp_path: Path, base: Path, adapter: Path, unigram_folder: Path) -> None:
    said = refusal(f"{base}+{unigram_folder}", unigram_folder, tmp_path / "out")
    assert "is not a LoRA adapter: it has no adapter_config.json" in said
    make_pointer(adapter / "adapter_model.safetensors")
    assert PULL in refusal(f"{base}+{adapter}", unigram_folder, tmp_path / "out")


def test_an_at_sign_in_the_name_of_a_folder(
    tmp_path: Path, base: Path, unigram_folder: Path, gemma_style_folder: Path
) -> None:
    """mergekit cuts the path there, and would take the folders `a` and `c`."""
    shutil.copytree(base, tmp_path / "a@b")
    shutil.copytree(base, tmp_path / "a")
    shutil.copytree(unigram_folder, tmp_path / "c@d")
    shutil.copytree(gemma_style_folder, tmp_path / "c")
    out = transplant(tmp_path / "a@b", tmp_path / "c@d", tmp_path / "out")
    assert (out / "tokenizer.json").read_bytes() == (
        transplant(base, unigram_folder, tmp_path / "x") / "tokenizer.json"
    ).read_bytes()
    assert json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["name"] == str(tmp_path / "a@b")
    assert make_recipe("org/model@main", "x", {})["models"] == [{"model": "org/model@main"}]
    both = make_recipe(f"{tmp_path / 'a@b'}+org/adapter", "x", {})["models"][0]["model"]
    assert both == {"model": {"path": str(tmp_path / "a@b")}, "lora": "org/adapter"}


def test_a_plus_in_the_name_of_a_folder(tmp_path: Path, base: Path, unigram_folder: Path) -> None:
    shutil.copytree(base, tmp_path / "a+b")
    shutil.copytree(unigram_folder, tmp_path / "c+d")
    out = transplant(tmp_path / "a+b", tmp_path / "c+d", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["vocab_size"] > 0
    assert make_recipe("org/model+org/adapter", "x", {})["models"] == [{"model": "org/model+org/adapter"}]
