"""Synthetic models and tokenizers of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SHARD_BYTES = 1_000_000_000
HEAD = 128
"""Width of an attention head; one key head for four query heads."""


# --- models --------------------------------------------------------------------------------------


def write_model(folder: Path, num_bytes: int, hidden: int, tokenizer: Path, num_rows: int) -> dict[str, Any]:
    """A Llama of random bfloat16 weights, input and output matrix of their own, written shard by shard.

    Args:
        folder: is made.
        num_bytes: about the size of all weights; as many layers as that takes.
        hidden: width.
        tokenizer: folder whose tokenizer files are copied.
        num_rows: of the vocabulary matrices.
    """
    import transformers

    folder.mkdir(parents=True)
    layer = sum(rows * columns for _, (rows, columns) in _layer(0, hidden))
    layers = max(1, round((num_bytes / 2 - 2 * num_rows * hidden) / layer))
    config = transformers.LlamaConfig(
        vocab_size=num_rows,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // HEAD),
        num_key_value_heads=max(1, hidden // HEAD // 4),
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    weight_map, total, shard, held, number = dict[str, str](), 0, dict[str, torch.Tensor](), 0, 1
    # One block of random numbers, read from another place for every tensor: real ones would take minutes.
    block = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    for n, (name, shape) in enumerate(_tensors(hidden, layers, num_rows)):
        tensor = _filled(block, shape, offset=n * 7919)
        size = tensor.numel() * 2
        if held and held + size > SHARD_BYTES:
            save_file(shard, str(folder / f"shard-{number}.safetensors"), metadata={"format": "pt"})
            shard, held, number = {}, 0, number + 1
        shard[name], held, total = tensor, held + size, total + size
        weight_map[name] = f"shard-{number}.safetensors"
    save_file(shard, str(folder / f"shard-{number}.safetensors"), metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"bytes": total, "layers": layers, "hidden": hidden, "shards": number, "tensors": len(weight_map)}


def _tensors(hidden: int, layers: int, num_rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (num_rows, hidden)
    for layer in range(layers):
        yield from _layer(layer, hidden)
        yield f"model.layers.{layer}.input_layernorm.weight", (hidden,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (num_rows, hidden)


def _layer(layer: int, hidden: int) -> Iterator[tuple[str, tuple[int, int]]]:
    heads, keys, inner = max(1, hidden // HEAD), max(1, hidden // HEAD // 4), hidden * 7 // 2
    width = hidden // heads
    prefix = f"model.layers.{layer}"
    yield f"{prefix}.self_attn.q_proj.weight", (heads * width, hidden)
    yield f"{prefix}.self_attn.k_proj.weight", (keys * width, hidden)
    yield f"{prefix}.self_attn.v_proj.weight", (keys * width, hidden)
    yield f"{prefix}.self_attn.o_proj.weight", (hidden, heads * width)
    yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.mlp.up_proj.weight", (inner, hidden)
    yield f"{prefix}.mlp.down_proj.weight", (hidden, inner)


def _filled(block: torch.Tensor, shape: Sequence[int], offset: int) -> torch.Tensor:
    tensor = torch.empty(tuple(shape), dtype=block.dtype)
    flat, rolled = tensor.view(-1), block.roll(-offset)
    for start in range(0, len(flat), len(block)):
        part = flat[start : start + len(block)]
        part.copy_(rolled[: len(part)])
    return tensor


# --- tokenizers ----------------------------------------------------------------------------------


def write_tokenizer(folder: Path, num_tokens: int, texts: Sequence[str]) -> None:
    """A byte-level BPE tokenizer of any size, made without training.

    Each text in turn is put together character by character, from the left, so that its beginnings become
    tokens, too; when there are no more, words are joined in pairs. Same texts, same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from mergekit_tokenadapt.tokenizer.vocabulary import byte_alphabet

    alphabet = byte_alphabet()
    vocab: dict[str, int] = {spelling: n for n, spelling in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []

    def merged(left: str, right: str) -> str:
        if left and left + right not in vocab and len(vocab) < num_tokens - 1:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
        return left + right

    words: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        whole = ""
        for character in text:
            spelling = ""
            for byte in character.encode("utf-8"):
                spelling = merged(spelling, alphabet[byte])
            whole = merged(whole, spelling)
        if text.isascii() and text.strip(" ").isalpha() and text.count(" ") <= 1 and whole in vocab:
            words[0 if text.startswith(" ") else 1].append(whole)
    starts, ends = words
    for n in range(len(starts) * len(ends)):
        if len(vocab) >= num_tokens - 1:
            break
        merged(starts[n % len(starts)], ends[(n * 31 + n // len(starts)) % len(ends)])
    special = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    roles = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special, "bos_token": special}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
