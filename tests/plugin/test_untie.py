"""`untie`: the output gets a matrix of its own."""

import json

import torch
import transformers
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant


def test_untie_gives_the_output_a_matrix_of_its_own(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    tied = transplant(base, gemma_style_folder, tmp_path / "tied")
    untied = transplant(base, gemma_style_folder, tmp_path / "untied", untie=True)
    tensors = tensors_of(untied)
    assert tensors.keys() == tensors_of(tied).keys() | {HEAD}
    assert torch.equal(tensors[HEAD], tensors[EMBEDDINGS])
    assert torch.equal(tensors[EMBEDDINGS], tensors_of(tied)[EMBEDDINGS])
    assert json.loads((untied / "config.json").read_text())["tie_word_embeddings"] is False
    models = []
    for folder in (tied, untied):
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        models.append(model)
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def test_untie_of_an_untied_model_changes_nothing(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    untied = tensors_of(transplant(base, gemma_style_folder, tmp_path / "out", untie=True))
    assert plain.keys() == untied.keys()
    assert all(torch.equal(plain[name], untied[name]) for name in plain)
