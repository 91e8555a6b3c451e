"""What is read and written: shards, pickles, tokenizer files, and a conversion to GGUF."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers_zoo import CORPUS, FAMILIES, renumbered, write_tokenizer
from transplanting import HEAD, edit_json, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


def test_sharded_output_and_pickled_input(tmp_path, untied_base, gemma_style_folder):
    expected = tensors_of(transplant(untied_base, gemma_style_folder, tmp_path / "whole"))
    sharded = transplant(untied_base, gemma_style_folder, tmp_path / "sharded", options={"out_shard_size": 30_000})
    assert len(list(sharded.glob("*.safetensors"))) > 1
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in untied_base.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(tensors_of(untied_base), pickled / "pytorch_model.bin")
    options = {"lazy_unpickle": True, "low_cpu_memory": True}
    from_pickle = transplant(pickled, gemma_style_folder, tmp_path / "from-pickle", options=options)
    for folder in (sharded, from_pickle):
        found = tensors_of(folder)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_outputs_are_the_same_bytes_again(tmp_path, base, unigram_folder):
    first, second = (
        transplant(base, unigram_folder, tmp_path / place / "out", method="hybrid") for place in ("first", "second")
    )
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_sharded_input(tmp_path, untied_base, gemma_style_folder):
    expected = tensors_of(transplant(untied_base, gemma_style_folder, tmp_path / "whole"))
    sharded = tmp_path / "sharded"
    transformers.AutoModelForCausalLM.from_pretrained(untied_base).save_pretrained(sharded, max_shard_size="30KB")
    for file in load_tokenizer(str(untied_base)).files():
        shutil.copyfile(file, sharded / file.name)
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    found = tensors_of(transplant(sharded, gemma_style_folder, tmp_path / "out"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


MODEL_CODE = """from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
CONFIG_CODE = """from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
"""
TOKENIZER_CODE = """from transformers import PreTrainedTokenizerFast
from .helpers import NAME
class OwnTokenizer(PreTrainedTokenizerFast):
    made_by = NAME
"""


@pytest.fixture
def with_code(
    tmp_path: Path, base: Path, gemma_style_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A model and a tokenizer whose classes are code in their folders, and a file that no class needs."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model, target = shutil.copytree(base, tmp_path / "model"), shutil.copytree(gemma_style_folder, tmp_path / "target")
    (model / "modeling_own.py").write_text(MODEL_CODE)
    (model / "configuration_own.py").write_text(CONFIG_CODE)
    (model / "convert.py").write_text("raise RuntimeError\n")
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edit_json(
        model / "config.json",
        model_type="own_llama",
        architectures=["OwnForCausalLM"],
        auto_map={**auto_map, "AutoModel": "org/other--elsewhere.Model"},
    )
    (target / "tokenization_own.py").write_text(TOKENIZER_CODE)
    (target / "helpers.py").write_text("NAME = 'own'\n")
    edit_json(
        target / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )
    return model, target


def test_own_code_of_model_and_tokenizer_comes_along(
    tmp_path: Path, with_code: tuple[Path, Path], base: Path, gemma_style_folder: Path
) -> None:
    out = transplant(*with_code, tmp_path / "out", options={"trust_remote_code": True})
    code = {"modeling_own.py", "configuration_own.py", "tokenization_own.py", "helpers.py"}
    assert {file.name for file in out.glob("*.py")} == code
    model = transformers.AutoModelForCausalLM.from_pretrained(str(out), trust_remote_code=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out), trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    assert tokenizer.made_by == "own"
    expected = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(out).items())


def test_own_code_that_would_overwrite_or_leave_the_folder_is_refused(
    tmp_path: Path, with_code: tuple[Path, Path]
) -> None:
    model, target = with_code
    options = {"trust_remote_code": True}
    (target / "tokenization_own.py").write_text(TOKENIZER_CODE.replace("helpers", "configuration_own"))
    (target / "configuration_own.py").write_text("NAME = 'another'\n")
    with pytest.raises(TokenAdaptError, match=r"configuration_own\.py would both be copied .*, and differ"):
        transplant(model, target, tmp_path / "out", options=options)
    secret = tmp_path / "secret.txt"
    secret.write_text("NAME = 'secret'\n")
    (target / "configuration_own.py").unlink()
    (target / "configuration_own.py").symlink_to(secret)
    with pytest.raises(TokenAdaptError, match="which is outside its folder"):
        transplant(model, target, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_tokenizer_files_are_identical_by_hash(tmp_path, base, family, tokenizer_folder):
    target = tmp_path / "target"
    shutil.copytree(tokenizer_folder, target)
    (target / "special_tokens_map.json").write_text('{"pad_token": "x"}\n\n', encoding="utf-8")
    (target / "chat_template.jinja").write_text("{{ messages }}\r\n", encoding="utf-8", newline="")
    out = transplant(base, target, tmp_path / "out")
    hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in target.iterdir()}
    assert len(hashes) == 4
    assert {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in hashes} == hashes
    assert json.loads((out / "tokenadapt.json").read_text())["target"]["files"] == hashes


# --- GGUF -----------------------------------------------------------------------------------------


def converted_vocabulary(folder: Path) -> tuple[list[str], list[int]]:
    """Tokens and their types as llama.cpp's converter takes them from a model folder (`get_vocab_base`)."""
    import gguf

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert max(tokenizer.get_vocab().values()) < rows, "the converter's own assertion"
    spelling = {i: token for token, i in tokenizer.get_vocab().items()}
    extra = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for i in range(rows):
        if i not in spelling:
            tokens.append(f"[PAD{i}]")
            types.append(gguf.TokenType.UNUSED)
        elif i in extra:
            tokens.append(spelling[i])
            types.append(gguf.TokenType.CONTROL if extra[i].special else gguf.TokenType.USER_DEFINED)
        else:
            tokens.append(spelling[i])
            is_byte = spelling[i].startswith("<0x") and len(spelling[i]) == 6
            types.append(gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL)
    return tokens, [int(t) for t in types]


def write_and_read_gguf(folder: Path, file: Path) -> Mapping[str, Any]:
    """Put tokens, types, merges, special ids, chat template and matrices into a GGUF file; what it then holds."""
    import gguf

    tokens, types = converted_vocabulary(folder)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(tokens)).add_to_gguf(writer, quiet=True)
    names = {"model.embed_tokens.weight": "token_embd.weight", HEAD: "output.weight"}
    for name, tensor in tensors_of(folder).items():
        if name in names:
            writer.add_tensor(names[name], tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.GGUFReader(str(file))
    read = {name: field.contents() for name, field in reader.fields.items()}
    return {**read, "tensors": {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "wordpiece"])
def test_a_gguf_file_holds_the_vocabulary(tmp_path, untied_base, zoo, zoo_folders, family):
    pytest.importorskip("gguf")
    out = transplant(untied_base, zoo_folders[family], tmp_path / "out", pad=64)
    read = write_and_read_gguf(out, tmp_path / "model.gguf")
    vocabulary = zoo[family].vocabulary
    tokens, types = read["tokenizer.ggml.tokens"], read["tokenizer.ggml.token_type"]
    assert (
        len(tokens) == len(types) == len(read["tensors"]["token_embd.weight"]) == len(read["tensors"]["output.weight"])
    )
    assert len(tokens) % 64 == 0
    assert len(set(tokens)) == len(tokens), "llama.cpp looks tokens up by their spelling"
    for token in vocabulary:
        assert tokens[token.id] == token.spelling
    kinds = {"special": 3, "added": 4, "byte": 6, "ordinary": 1}
    wrong = [t for t in vocabulary if types[t.id] != kinds[t.kind.value]]
    assert wrong == []
    assert [t for t in types[vocabulary.num_ids :] if t != 5] == []
    merges = zoo[family].definition["model"].get("merges")
    if merges:
        assert read["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        assert read[f"tokenizer.ggml.{name}_token_id"] == vocabulary.roles[role]
    assert read.get("tokenizer.chat_template") == zoo[family].chat_template
    assert torch.equal(read["tensors"]["output.weight"], tensors_of(out)[HEAD])


@pytest.mark.parametrize("gaps", [False, True], ids=["as it is", "with gaps"])
def test_a_byte_level_tokenizer_built_from_the_gguf_file_segments_the_same(tmp_path, base, zoo, gaps):
    """Tokens, merges and types are all that llama.cpp has: text has to come out the same."""
    pytest.importorskip("gguf")
    files = zoo["byte-level"]
    definition = renumbered(dict(files.definition), lambda i: i + i // 50) if gaps else files.definition
    target = write_tokenizer(tmp_path / "target", definition, files.config)
    read = write_and_read_gguf(transplant(base, target, tmp_path / "out"), tmp_path / "model.gguf")
    tokens, types = read["tokenizer.ggml.tokens"], read["tokenizer.ggml.token_type"]
    vocab = {token: i for i, token in enumerate(tokens)}
    rebuilt = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in read["tokenizer.ggml.merges"]]))
    rebuilt.pre_tokenizer, rebuilt.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    matched = [t for t, kind in zip(tokens, types, strict=True) if kind in (3, 4)]
    rebuilt.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in matched])
    original = load_tokenizer(str(target)).fast_tokenizer()
    for text in [*CORPUS, "<|im_start|>user\nthe river<|im_end|>", "<tool> x \u0000 ✨"]:
        assert rebuilt.encode(text).ids == original.encode(text, add_special_tokens=False).ids
