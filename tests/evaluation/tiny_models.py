"""Tiny tokenizers and models for the evaluation tests. Built in a second, no network."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.plan_files import save_plan
from mergekit_tokenadapt.transfer.transfer import Transfer

ENGLISH = [
    "the river runs past the old mill and the miller counts the stones one by one",
    "bread and water and a happy family by the river in the summer evening",
    "walking talking baking making taking the words were singing in the ring",
    "she counted the stones and nothing was heavier than a sack of wet flour",
]
GERMAN = [
    "der fluss fliesst an der alten muehle vorbei und der mueller zaehlt die steine",
    "brot und wasser und eine froehliche familie am fluss an einem sommerabend",
    "die woerter klingen und singen und springen im ring und bringen dinge",
]
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level_tokenizer(lines: Sequence[str], vocab_size: int, specials: Sequence[str] = SPECIALS) -> Tokenizer:
    """GPT-2 style BPE, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(s, special=True) for s in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, **config: Any) -> Path:
    """tokenizer.json and tokenizer_config.json; bos ``<s>`` and eos ``</s>`` unless `config` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    return folder


def tiny_config(rows: int, *, tied: bool = True, window: int = 128) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )


def write_model(
    folder: Path, tokenizer: Tokenizer, *, rows: int | None = None, tied: bool = True, seed: int = 0
) -> Path:
    """A random Llama with its tokenizer."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config(rows or tokenizer.get_vocab_size(), tied=tied))
    for parameter in model.parameters():  # sharper than the usual initialisation: losses differ visibly
        parameter.data *= 3
    model.save_pretrained(folder)
    return write_tokenizer(tokenizer, folder)


def transplant(base: Path, tokenizer: Tokenizer, out: Path) -> Path:
    """The base model with another tokenizer, by the package's own plan, without mergekit."""
    write_tokenizer(tokenizer, out)
    source, target = load_tokenizer(str(base)), load_tokenizer(str(out))
    tensors = load_file(base / "model.safetensors")
    base_rows = len(tensors["model.embed_tokens.weight"])
    mean = AdaptConfig(method="mean", rows="exact")
    transfer = Transfer.of(mean, base=source, target=target, base_rows=base_rows, quiet=True)
    plan = transfer.make_plan()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = plan.apply(tensors[name]).rows
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"vocab_size": plan.num_rows}
    (out / "config.json").write_text(json.dumps(config))
    shutil.copyfile(base / "generation_config.json", out / "generation_config.json")
    save_plan(plan, out / "tokenadapt.plan")
    return out


def permuted(folder: Path, out: Path, seed: int = 3) -> Path:
    """The same model with its token ids shuffled, tokenizer and rows alike."""
    shutil.copytree(folder, out)
    definition = json.loads((folder / "tokenizer.json").read_text())
    size = len(definition["model"]["vocab"])
    new_ids = list(range(size))
    random.Random(seed).shuffle(new_ids)
    definition["model"]["vocab"] = {s: new_ids[i] for s, i in definition["model"]["vocab"].items()}
    for entry in definition["added_tokens"]:
        entry["id"] = new_ids[entry["id"]]
    definition["added_tokens"].sort(key=lambda entry: entry["id"])
    (out / "tokenizer.json").write_text(json.dumps(definition))
    tensors = load_file(folder / "model.safetensors")
    order = torch.empty(size, dtype=torch.int64)
    order[torch.tensor(new_ids)] = torch.arange(size)
    for name, tensor in tensors.items():
        if "embed_tokens" in name or "lm_head" in name:
            tensors[name] = tensor[order].contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        edit_json(out / name, lambda c: c.update({k: new_ids[c[k]] for k in ("bos_token_id", "eos_token_id")}))
    return out


def edit_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the object in a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a folder in place."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
