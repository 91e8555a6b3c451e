"""The method `zett` with a tiny hypernetwork, whose rows a plain version makes again."""

import json
import shutil
import sys

import pytest
import torch
import transformers
from click.testing import CliRunner
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from tokenizers_zoo import make_transfer, tiny_model_folder

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.spelling import byte_alphabet
from mergekit_tokenadapt.transfer.plan_files import load_plan

LONGEST = 3
CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class TinyConfig(PretrainedConfig):
    model_type = "tiny-hypernetwork"

class TinyHypernetwork(PreTrainedModel):
    config_class = TinyConfig
    def __init__(self, config):
        super().__init__(config)
        self.to_input = torch.nn.Linear(config.width, config.width)
        self.to_output = torch.nn.Linear(config.width, config.width) if config.has_output else None
        self.post_init()
    def forward(self, surface_forms, source_embeddings, lang_index=None):
        mean = source_embeddings[surface_forms].mean(dim=1)[:, : self.config.width]
        shift = 0 if lang_index is None else lang_index
        outputs = None if self.to_output is None else self.to_output(mean) + shift
        return self.to_input(mean) + shift, outputs, None
"""


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """transformers copies remote code into a folder of the test, not of the user."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def made(request, byte_level_folder, tmp_path):
    """(base model, folder of a hypernetwork for it)."""
    is_tied = request.param
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=is_tied)
    folder = shutil.copytree(byte_level_folder, tmp_path / "hypernetwork")
    config = {
        "model_type": "tiny-hypernetwork", "width": 32, "has_output": not is_tied, "hn_surface_maxlen": LONGEST,
        "architectures": ["TinyHypernetwork"],
        "auto_map": {"AutoConfig": "hypernetwork.TinyConfig", "AutoModel": "hypernetwork.TinyHypernetwork"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hypernetwork.py").write_text(CODE)
    names = ("to_input", "to_output") if not is_tied else ("to_input",)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{name}.{part}": torch.randn(shape, generator=generator)
        for name in names
        for part, shape in (("weight", (32, 32)), ("bias", (32,)))
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return base, folder, tensors


def transplanted(base, target, out, *, trust=True, **adapt):
    options = MergeOptions(quiet=True, trust_remote_code=trust)
    return run_recipe(make_recipe(str(base), str(target), {"method": "zett", **adapt}), str(out), options)


def plain_rows(base, hypernetwork, tensors, token, name, matrix):
    """One row: mean of the source rows of the surface form, through the linear map."""
    tokenizer = load_tokenizer(str(hypernetwork))
    spelled = "".join(byte_alphabet()[b] for b in token.bytes)
    ids = [piece.id for piece in tokenizer.fast_tokenizer().model.tokenize(spelled)][:LONGEST]
    ids += [tokenizer.vocabulary.roles.get("pad", 0)] * (LONGEST - len(ids))
    return matrix[ids].mean(dim=0) @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


@pytest.mark.parametrize("language", [None, 2])
def test_rows_are_those_of_the_hypernetwork(made, gemma_style_folder, tmp_path, zoo, language):
    base, hypernetwork, tensors = made
    out = transplanted(
        base,
        gemma_style_folder,
        tmp_path / "out",
        checkpoint=str(hypernetwork),
        **({"lang_index": language} if language else {}),
    )
    rows, old = (load_file(str(folder / "model.safetensors")) for folder in (out, base))
    matrix = old["model.embed_tokens.weight"]
    tokens = make_transfer(zoo["byte-level"], zoo["gemma-style"]).new_tokens
    assert any(len(t.bytes) > LONGEST for t in tokens)
    matrices = {"model.embed_tokens.weight": "to_input"}
    if "to_output.weight" in tensors:
        matrices["lm_head.weight"] = "to_output"
    for stored, name in matrices.items():
        wanted = torch.stack([plain_rows(base, hypernetwork, tensors, t, name, matrix) for t in tokens])
        torch.testing.assert_close(rows[stored][[t.id for t in tokens]], wanted + (language or 0), atol=1e-5, rtol=1e-5)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    assert set(manifest["method_files"]) == {"checkpoint"}
    plan = load_plan(out / "tokenadapt.plan")
    assert plan.explain(tokens[0].id)
    with pytest.raises(TokenAdaptError, match="too large to be stored: make it again"):
        plan.apply(matrix)


def test_code_of_a_checkpoint_runs_only_if_it_may(made, gemma_style_folder, tmp_path):
    base, hypernetwork, _ = made
    (hypernetwork / "hypernetwork.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(TokenAdaptError, match="comes with code of its own: --trust-remote-code lets it run"):
        transplanted(base, gemma_style_folder, tmp_path / "out", trust=False, checkpoint=str(hypernetwork))
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused_in_one_line(made, gemma_style_folder, tmp_path):
    base, hypernetwork, _ = made
    command = ["transplant", base, gemma_style_folder, tmp_path / "out", "--method", "zett", "--quiet", "-O"]
    result = CliRunner().invoke(main, [*map(str, command), f"checkpoint={base}"])
    assert result.exit_code == 2
    assert "is no hypernetwork of ZeTT: its config has no hn_surface_maxlen" in result.stderr
    missing = CliRunner().invoke(main, [*map(str, command), "checkpoint=./no-such"])
    assert "checkpoint: there is no file or folder './no-such'" in missing.stderr
    wide = tiny_model_folder(gemma_style_folder, tmp_path / "wide")
    config = json.loads((hypernetwork / "config.json").read_text())
    (hypernetwork / "config.json").write_text(json.dumps({**config, "width": 16}))
    tensors = {"to_input.weight": torch.zeros(16, 16), "to_input.bias": torch.zeros(16)}
    tensors |= {"to_output.weight": torch.zeros(16, 16), "to_output.bias": torch.zeros(16)}
    save_file(tensors, str(hypernetwork / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(TokenAdaptError, match="have 16 numbers, and a vocabulary tensor of the model has 32"):
        transplanted(base, wide, tmp_path / "out", checkpoint=str(hypernetwork))


def test_a_hypernetwork_that_fails_is_told_in_one_line(made, gemma_style_folder, tmp_path):
    base, hypernetwork, _ = made
    code = (hypernetwork / "hypernetwork.py").read_text()
    (hypernetwork / "hypernetwork.py").write_text(
        code.replace("mean = source", "raise ValueError('no\\nrows'); mean = source")
    )
    with pytest.raises(TokenAdaptError, match="the hypernetwork failed on tokens of the target: ValueError: no"):
        transplanted(base, gemma_style_folder, tmp_path / "out", checkpoint=str(hypernetwork))


def test_a_model_in_memory(made, gemma_style_folder, tmp_path):
    base, hypernetwork, _ = made
    out = transplanted(base, gemma_style_folder, tmp_path / "out", checkpoint=str(hypernetwork))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    options = {"method": "zett", "checkpoint": str(hypernetwork), "trust_remote_code": True, "quiet": True}
    ta.adapt(model, tokenizer, str(gemma_style_folder), **options)
    written = load_file(str(out / "model.safetensors"))
    assert torch.equal(model.get_input_embeddings().weight, written["model.embed_tokens.weight"])
