"""The same tokenizer with permuted ids gives permuted logits, and no tensor is lost: models of every architecture."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergekit.options import MergeOptions
from small_models import logits_of, small_config, small_model
from tokenizers_zoo import added, byte_level, permutation, renumbered, write_tokenizer
from transplanting import tensors_of, transplant

from mergekit_tokenadapt.plugin.transplant import run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

MEDIA = {f"{kind}_token_{end}": f"<{kind}>" for kind in ("image", "video", "audio") for end in ("id", "index")} | {
    "boi_token_index": "<boi>",
    "eoi_token_index": "<eoi>",
    "vision_start_token_id": "<vstart>",
    "vision_end_token_id": "<vend>",
}
"""Ids in configs of models that also see or hear, and the tokens for them."""


class Permuted:
    """A tokenizer, and the same with other ids; the pad token keeps its id, from which some models count positions."""

    def __init__(self, folder: Path) -> None:
        definition, config = byte_level()
        rows = load_tokenizer(str(write_tokenizer(folder / "plain", definition, config))).vocabulary.num_ids
        tokens = sorted(set(MEDIA.values()))
        definition["added_tokens"] += [added(token, rows + n) for n, token in enumerate(tokens)]
        self.before = write_tokenizer(folder / "before", definition, config)
        vocabulary = load_tokenizer(str(self.before)).vocabulary
        self.rows, pad = vocabulary.num_ids, vocabulary.roles["pad"]
        places = permutation(self.rows, seed=3)
        places[places.index(pad)], places[pad] = places[pad], pad
        self.after = write_tokenizer(folder / "after", renumbered(definition, lambda i: places[i]), config)
        self.places = torch.tensor(places)
        self.ids = {key: vocabulary.by_spelling[token].id for key, token in MEDIA.items()}
        self.ids |= {f"{role}_token_id": vocabulary.roles[role] for role in ("bos", "eos", "pad")}
        self.ids |= {"decoder_start_token_id": vocabulary.roles["bos"], "forced_eos_token_id": vocabulary.roles["eos"]}


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Permuted:
    return Permuted(tmp_path_factory.mktemp("permuted"))


def saved(name: str, permuted: Permuted, folder: Path, options: Mapping[str, Any]) -> Path:
    """A tiny model of the class `name`, with the tokenizer."""
    model_class = getattr(transformers, name)
    config = small_config(model_class.config_class, permuted.rows, **options)
    for each in (config, *(part for part in vars(config).values() if isinstance(part, transformers.PretrainedConfig))):
        for key, token in permuted.ids.items():
            if hasattr(each, key) or key == "pad_token_id":  # some configs of transformers 5.0 lack it
                setattr(each, key, token)
    small_model(model_class, config).save_pretrained(folder)
    shutil.copytree(permuted.before, folder, dirs_exist_ok=True)
    return folder


def assert_permuted(name: str, folder: Path, out: Path, permuted: Permuted) -> None:
    """Every tensor of `folder` is in `out`, and the new logits are the old ones in the new order."""
    before, after = tensors_of(folder), tensors_of(out)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed, "no tensor was adapted"
    assert all(permuted.rows in before[key].shape for key in changed), changed
    model_class = getattr(transformers, name)
    ids = torch.tensor([[5, 300, 41, 77, 1, 120, 9, 300, 450, 33, 8, 200, 99, 101]])
    was, loaded = logits_of(folder, model_class, ids)
    now, loaded_now = logits_of(out, model_class, permuted.places[ids])
    assert {k: len(v) for k, v in loaded_now.items()} == {k: len(v) for k, v in loaded.items()}
    if was.shape[-1] == permuted.rows:
        now = now[..., permuted.places]
    torch.testing.assert_close(now, was, rtol=0, atol=1e-4 * max(1.0, float(was.abs().max())))


KNOWN = """
    Apertus Arcee Cohere2 Cohere Falcon GPTBigCode GPTNeoX Gemma2 Gemma3 Gemma Glm4 Glm4Moe Granite GraniteMoeHybrid
    Lfm2 Llama Mamba Mistral Mixtral Olmo2 Phi3 Phi Qwen2 Qwen3 Qwen3Moe StableLm Starcoder2
"""
"""Causal language models that mergekit has definitions of."""
INFERRED = """
    Bamba Bloom DeepseekV3 Ernie4_5_Moe FalconH1 FlexOlmo GPTJ Gemma3n Gemma4 Jamba Lfm2Moe Mpt NemotronH OPT Olmoe
    XGLM
"""
"""Causal language models that it has none of."""
OTHERS = """
    BartForConditionalGeneration BertForMaskedLM BertForSequenceClassification DistilBertForMaskedLM GPT2LMHeadModel
    Gemma3ForConditionalGeneration LlavaForConditionalGeneration
    LlavaNextForConditionalGeneration MarianMTModel Mistral3ForConditionalGeneration PaliGemmaForConditionalGeneration
    Qwen2AudioForConditionalGeneration Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration
    Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration RobertaForMaskedLM T5ForConditionalGeneration
    WhisperForConditionalGeneration
"""
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "DeepseekV3ForCausalLM": {"head_dim": 8},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"]},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "NemotronHForCausalLM": {"layers_block_type": ["mamba", "moe", "attention", "mlp"], "num_hidden_layers": 4},
    "Phi3ForCausalLM": {"tie_word_embeddings": True},
    "Qwen2VLForConditionalGeneration": {"text_config": {"rope_parameters": MROPE}},
    "Qwen2_5_VLForConditionalGeneration": {"text_config": {"rope_parameters": MROPE}},
    "StableLmForCausalLM": {"tie_word_embeddings": True},
}
MODELS = [*(f"{name}ForCausalLM" for name in (KNOWN + INFERRED).split()), *OTHERS.split()]


@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(transformers, name)])
def test_permuted_ids_give_permuted_logits(tmp_path: Path, permuted: Permuted, name: str) -> None:
    folder = saved(name, permuted, tmp_path / "model", OPTIONS.get(name, {}))
    out = transplant(folder, permuted.after, tmp_path / "out")
    assert_permuted(name, folder, out, permuted)


def test_a_definition_of_mergekit_that_does_not_fit_the_config_is_not_used(tmp_path: Path, permuted: Permuted) -> None:
    name = "Qwen2VLForConditionalGeneration"
    folder = saved(name, permuted, tmp_path / "model", OPTIONS[name])
    models = [folder, Path(shutil.copytree(folder, tmp_path / "same"))]
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models],
        "tokenizer": {"source": str(permuted.after), "adapt": {"method": "mean"}},
    }
    assert_permuted(name, folder, run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True)), permuted)
