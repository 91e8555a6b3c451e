"""A tiny model of any class of transformers, with random weights: sizes by name, whatever the config is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from mergekit_tokenadapt.tokenizer.files import load_tokenizer

LAYERS, WIDTH, HEADS = 2, 32, 2
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_encoder_layers", "num_decoder_layers", "depth"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(
        ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "lru_width", "attn_size", "embed_dim"), WIDTH
    ),
    **dict.fromkeys(("word_embed_proj_dim", "out_hidden_size", "dim_model"), WIDTH),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), WIDTH
    ),
    **dict.fromkeys(("ffn_hidden_size",), WIDTH),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "v_head_dim", "q_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "ngram", "num_dense_layers"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "embedding_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input", "chunk_size"), 8),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads", "altup_num_inputs", "mamba_expand"), 2),
    **dict.fromkeys(("state_size", "mamba_d_state", "time_step_rank", "laurel_rank", "conv_kernel"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "ssm_state_size", "memory_size"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "attention_window_size", "attention_window"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "sliding_window"), 64),
    **dict.fromkeys(("first_k_dense_replace", "moe_layer_start_index"), 1),
    **dict.fromkeys(("num_kv_shared_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("image_size",), 28),
    **dict.fromkeys(("patch_size",), 14),
}
"""Small sizes for every name that some config gives them."""
VOCABULARY_KEYS = ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size")


def small_config(config_class: type, rows: int, **options: Any) -> Any:
    """A config of small sizes, with the configs in it, of `rows` tokens.

    Args:
        options: set in it, or, with a mapping as value, in the config of that name in it.
    """
    default = config_class()
    aliases = getattr(default, "attribute_map", None) or {}
    known = {name for name in vars(default) if not name.startswith("_")} | aliases.keys()
    sizes = {**SIZES, **dict.fromkeys(VOCABULARY_KEYS, rows)}
    chosen = {name: value for name, value in sizes.items() if name in known and aliases.get(name) not in sizes}
    if vars(default).get("layer_types"):
        chosen["layer_types"] = None
    for name, part in vars(default).items():
        if isinstance(part, transformers.PretrainedConfig):
            chosen[name] = small_config(type(part), rows, **options.pop(name, {})).to_dict()
    return config_class(**{**chosen, **options})


def small_model(model_class: Any, config: Any, seed: int = 0) -> Any:
    """A model whose every tensor is random, biases and buffers that are added to logits too, in float32."""
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
            elif "norm" not in name.lower():
                parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("logits_bias"):
                buffer.normal_()
    model.tie_weights()
    return model


def logits_of(folder: Path, model_class: Any, ids: Tensor) -> tuple[Tensor, Mapping[str, Any]]:
    """The logits, or the last states of a model without any, and what did not fit when it was loaded."""
    model, loading = model_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    known = inspect.signature(model.forward).parameters
    arguments: dict[str, Any] = {"input_ids": ids}
    if "input_ids" not in known:  # it listens
        torch.manual_seed(1)
        arguments = {"input_features": torch.randn(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)}
    if getattr(model.config, "is_encoder_decoder", False):
        arguments["decoder_input_ids"] = ids[:, :7]
    if "use_cache" in known:
        arguments["use_cache"] = False
    with torch.no_grad():
        output = model.eval()(**arguments)
    logits: Tensor | None = getattr(output, "logits", getattr(output, "prediction_logits", None))
    return output[0] if logits is None else logits, loading


def with_position_table(tokenizer_folder: Path, path: Path, positions: int) -> Path:
    """The folder of a GPT-2 with so few positions, and a tokenizer of the zoo."""
    tokenizer = load_tokenizer(str(tokenizer_folder))
    config = small_config(transformers.GPT2Config, tokenizer.vocabulary.num_ids, n_positions=positions)
    small_model(transformers.GPT2LMHeadModel, config).save_pretrained(path)
    tokenizer.copy_to(path)
    return path
