"""Healing a tiny model from end to end: it gets better, and the folder is an ordinary one."""

import json

import pytest
import torch
import transformers
from quick_healing import healed
from transplanting import EMBEDDINGS, tensors_of


@pytest.mark.parametrize("train", ["lora", "all", "rows"])
def test_the_model_gets_better(pair, tmp_path, text_file, train):
    _, moved = pair
    result = healed(pair, tmp_path / "out", text_file, train=train)
    held_out = result.record["held_out"]
    assert held_out["after"]["lines"] < 0.9 * held_out["before"]["lines"]
    assert held_out["base"]["lines"] < held_out["after"]["lines"]
    assert result.is_better
    out = tmp_path / "out"
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (out / file).read_bytes() == (moved / file).read_bytes()
    before, after = tensors_of(moved), tensors_of(out)
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    body = [n for n in before if "proj" in n]
    assert all(torch.equal(before[n], after[n]) for n in body) == (train == "rows")
    changed = (before[EMBEDDINGS] != after[EMBEDDINGS]).any(1).sum()
    assert 0 < changed <= result.record["trained_rows"] < len(before[EMBEDDINGS])
    manifest = json.loads((out / "tokenadapt.json").read_text())
    assert manifest["healing"] == json.loads(json.dumps(result.record))
    assert manifest["inputs"] == json.loads((moved / "tokenadapt.json").read_text())["inputs"]
    assert "### Healing" in (out / "README.md").read_text()
    _, loading = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
