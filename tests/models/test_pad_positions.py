"""Models that count positions from the pad token's id: it moves, and they compute what they did."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers_zoo import BYTE_LEVEL, added, plain_definition, write_tokenizer
from transplanting import edit_json, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks import Finding, Status, run_checks
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.pad_positions import PadMove, PadPositions, find_pad_positions, plan_move
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.two_models.restore import restore

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SPELLINGS = [*SPECIALS, *(chr(0x4E00 + n) for n in range(55))]
N = len(SPELLINGS)
ROLES = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}

ENCODER = {
    "vocab_size": N,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
PAIR = {
    "vocab_size": N,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
XGLM = {"vocab_size": N, "d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2, "pad_token_id": 1}
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "RobertaForMaskedLM": ("RobertaConfig", ENCODER),
    "XLMRobertaForMaskedLM": ("XLMRobertaConfig", ENCODER),
    "CamembertForMaskedLM": ("CamembertConfig", ENCODER),
    "LongformerForMaskedLM": ("LongformerConfig", {**ENCODER, "attention_window": 8}),
    "IBertForMaskedLM": ("IBertConfig", ENCODER),
    "Data2VecTextForMaskedLM": ("Data2VecTextConfig", ENCODER),
    "XGLMForCausalLM": ("XGLMConfig", XGLM),
    "MPNetForMaskedLM": ("MPNetConfig", ENCODER),
    "M2M100ForConditionalGeneration": ("M2M100Config", PAIR),
    "MBartForConditionalGeneration": ("MBartConfig", PAIR),
    "BertForMaskedLM": ("BertConfig", ENCODER),
}
SHIFTED = [n for n in MODELS if MODELS[n][1] is ENCODER and n not in ("MPNetForMaskedLM", "BertForMaskedLM")]
SHIFTED += ["LongformerForMaskedLM"]


def tokenizer_with(order: list[int], folder: Path, **roles: str | None) -> Path:
    """The tokens above; `order` says which id each of them has."""
    tokens = [added(s, order[i]) for i, s in enumerate(SPECIALS)]
    definition = plain_definition(
        {s: order[i] for i, s in enumerate(SPELLINGS)},
        sorted(tokens, key=lambda t: t["id"]),
        decoder=BYTE_LEVEL,
        unk_token="<unk>",
    )
    config = {f"{role}_token": token for role, token in {**ROLES, **roles}.items() if token is not None}
    return write_tokenizer(folder, definition, {"tokenizer_class": "PreTrainedTokenizerFast", **config})


def model_of(name: str, folder: Path) -> Any:
    """A random model with ids as in `SPELLINGS`, in a folder with its tokenizer."""
    config, options = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(str(folder))
    tokenizer_with(list(range(N)), folder)
    return model


def with_pad_at(pad: int) -> list[int]:
    """A permutation of the ids that gives the pad token another one."""
    order = list(range(N))
    random.Random(1).shuffle(order)
    other = order.index(pad)
    order[1], order[other] = order[other], order[1]
    return order


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids, **more).logits
    return result


@pytest.mark.parametrize("pad", [0, 1, 37])
@pytest.mark.parametrize("name", [*SHIFTED, "XGLMForCausalLM", "MBartForConditionalGeneration"])
def test_a_moved_pad_token_leaves_positions_where_they_were(name: str, pad: int, tmp_path: Path) -> None:
    before = model_of(name, tmp_path / "base")
    order = torch.tensor(with_pad_at(pad))
    out = transplant(tmp_path / "base", tokenizer_with(order.tolist(), tmp_path / "target"), tmp_path / "out")
    after = type(before).from_pretrained(str(out)).eval()
    ids = torch.randint(5, N, (1, 12))
    assert torch.equal(logits(after, order[ids])[..., order], logits(before, ids))
    assert load_tokenizer(str(out)).vocabulary.roles["pad"] == pad


@pytest.mark.parametrize("name", ["MPNetForMaskedLM", "M2M100ForConditionalGeneration"])
def test_a_pad_id_that_cannot_move_is_refused(name: str, tmp_path: Path) -> None:
    model_of(name, tmp_path / "base")
    target = tokenizer_with(with_pad_at(37), tmp_path / "target")
    with pytest.raises(TokenAdaptError, match=r"pad token with the id 1, which cannot be changed.*has the id 37"):
        transplant(tmp_path / "base", target, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    transplant(tmp_path / "base", tokenizer_with(with_pad_at(1), tmp_path / "same"), tmp_path / "out")


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "M2M100ForConditionalGeneration", "MPNetForMaskedLM"])
def test_a_target_without_a_pad_token_is_refused(name: str, tmp_path: Path) -> None:
    model_of(name, tmp_path / "base")
    target = tokenizer_with(with_pad_at(37), tmp_path / "target", pad="<none>")
    edit_json(target / "tokenizer_config.json", pad_token=None)
    definition = json.loads((target / "tokenizer.json").read_text().replace('"<pad>"', '"<other>"'))
    (target / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(TokenAdaptError, match=r"has no pad token: name one|has none: use a tokenizer"):
        transplant(tmp_path / "base", target, tmp_path / "out")


def test_a_token_can_stand_for_pad(tmp_path: Path) -> None:
    before = model_of("RobertaForMaskedLM", tmp_path / "base")
    order = torch.tensor(with_pad_at(37))
    target = tokenizer_with(order.tolist(), tmp_path / "target", pad=None)
    definition = json.loads((target / "tokenizer.json").read_text().replace('"<pad>"', '"<other>"'))
    (target / "tokenizer.json").write_text(json.dumps(definition))
    out = transplant(tmp_path / "base", target, tmp_path / "out", token_map={"<pad>": "<other>"})
    after = type(before).from_pretrained(str(out)).eval()
    ids = torch.randint(5, N, (1, 12))
    assert after.config.pad_token_id == 37
    assert torch.equal(logits(after, order[ids])[..., order], logits(before, ids))


def test_the_config_states_the_new_number_of_positions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model_of("RobertaForMaskedLM", tmp_path / "base")
    target = tokenizer_with(with_pad_at(37), tmp_path / "target")
    edit_json(target / "tokenizer_config.json", model_max_length=8192)
    out = transplant(tmp_path / "base", target, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["max_position_embeddings"], config["pad_token_id"]) == (76, 37)
    assert tensors_of(out)["roberta.embeddings.position_embeddings.weight"].shape == (76, 16)
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 38
    assert "36 unused rows" in caplog.text


@pytest.mark.parametrize("pad", [0, 37])
def test_restore_moves_positions_back(pad: int, tmp_path: Path) -> None:
    model_of("RobertaForMaskedLM", tmp_path / "base")
    out = transplant(tmp_path / "base", tokenizer_with(with_pad_at(pad), tmp_path / "target"), tmp_path / "out")
    restore(str(out), str(tmp_path / "back"))
    before, after = tensors_of(tmp_path / "base"), tensors_of(tmp_path / "back")
    table = "roberta.embeddings.position_embeddings.weight"
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if name != table)
    assert torch.equal(before[table][2:], after[table][2:])  # rows up to the pad id are not used


@pytest.mark.parametrize("name", MODELS)
def test_what_classes_say(name: str, tmp_path: Path) -> None:
    config, options = MODELS[name]
    made = getattr(transformers, config)(**options, architectures=[name])
    with torch.device("meta"):
        stored = getattr(transformers, name)(made).state_dict()
    found = find_pad_positions(made, stored)
    kind = {
        "MPNetForMaskedLM": "fixed",
        "M2M100ForConditionalGeneration": "computed",
        "XGLMForCausalLM": "blanks",
        "BertForMaskedLM": None,
        "MBartForConditionalGeneration": None,
    }.get(name, "table")
    said = {
        "fixed": found is not None and found.fixed == 1,
        "computed": found is not None and found.is_computed,
        "blanks": found is not None and found.blanks_a_row,
        "table": found is not None and set(found.tables.values()) == {40},
        None: found is None,
    }
    assert said[kind]


def test_rows_of_a_moved_table() -> None:
    table = torch.arange(12.0).reshape(6, 2)
    up = PadMove(1, 3, tables=("p",), num_positions=(6,)).shift(table)
    assert torch.equal(up[2:], table)
    assert not up[:2].any()
    assert torch.equal(PadMove(2, 0, tables=("p",), num_positions=(6,)).shift(table), table[2:])


def test_nothing_is_done_where_nothing_moves() -> None:
    found = PadPositions(1, ((),), {"p.weight": 6})
    assert plan_move(found, 1, model="m", target="t") is None


def test_a_model_that_stops_running_without_a_token_is_refused(tmp_path: Path) -> None:
    """ESM masks with `mask_token_id`, whatever the config says of it."""
    options = {**ENCODER, "mask_token_id": 4, "token_dropout": True}
    model = transformers.EsmForMaskedLM(transformers.EsmConfig(**options))
    model.save_pretrained(str(tmp_path / "base"))
    tokenizer_with(list(range(N)), tmp_path / "base")
    target = tokenizer_with(list(range(N)), tmp_path / "target", mask=None)
    definition = json.loads((target / "tokenizer.json").read_text().replace('"<mask>"', '"<other>"'))
    (target / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(TokenAdaptError, match=r"without mask_token_id '<mask>'.*does not run"):
        transplant(tmp_path / "base", target, tmp_path / "out")


def test_positions_that_stayed_where_the_pad_token_moved_are_found(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    model_of("RobertaForMaskedLM", base)
    transplant(base, tokenizer_with(with_pad_at(37), tmp_path / "target"), out)
    assert _untouched(out, base).status is Status.PASSED
    name = "roberta.embeddings.position_embeddings.weight"
    file = out / "model.safetensors"
    tensors = load_file(str(file))
    tensors[name] = torch.roll(tensors[name], -1, dims=0)
    save_file(tensors, str(file), metadata={"format": "pt"})
    finding = _untouched(out, base)
    assert finding.status is Status.FAILED
    assert name in finding.message


def _untouched(out: Path, base: Path) -> Finding:
    found = run_checks(open_model(str(out)), open_model(str(base)), run=False)
    return next(finding for finding in found if finding.check == "untouched")
