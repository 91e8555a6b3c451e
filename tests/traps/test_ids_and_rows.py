"""Four sizes that differ: tokens, highest id + 1, rows of the tensors, vocab_size."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers_zoo import BYTE_LEVEL, added, plain_definition, renumbered, write_tokenizer
from transformers import AutoModelForCausalLM
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan_files import load_plan


def test_rows_and_padding_are_what_was_asked_for(tmp_path, base, gemma_style_folder, tiny_model_folder):
    ids = load_tokenizer(str(gemma_style_folder)).vocabulary.num_ids
    donor = tiny_model_folder(gemma_style_folder, tmp_path / "donor", rows=ids + 77)
    wanted = {
        "exact": ({"rows": "exact"}, ids),
        "as donor": ({"rows": "donor"}, ids + 77),
        "number": ({"rows": ids + 5}, ids + 5),
        "default": ({}, ids),
        "multiple": ({"pad": 64}, -(-ids // 64) * 64),
    }
    for name, (options, rows) in wanted.items():
        out = transplant(base, donor, tmp_path / name, **options)
        matrix = tensors_of(out)[EMBEDDINGS]
        assert len(matrix) == rows == json.loads((out / "config.json").read_text())["vocab_size"], name
        assert matrix[ids:].abs().sum(1).bool().all(), "a padding row of zeros could win"
        assert AutoModelForCausalLM.from_pretrained(str(out)).lm_head.weight.shape[0] == rows


def test_padding_rows_are_never_generated(tmp_path, untied_base, gemma_style_folder):
    ids = load_tokenizer(str(gemma_style_folder)).vocabulary.num_ids
    out = transplant(untied_base, gemma_style_folder, tmp_path / "out", rows=ids + 200)
    model = AutoModelForCausalLM.from_pretrained(str(out))
    torch.manual_seed(0)
    logits = model(torch.randint(ids, (16, 64))).logits
    assert logits.argmax(-1).max() < ids


def rows_of_config(folder):
    return json.loads((folder / "config.json").read_text())["vocab_size"]


def test_target_ids_with_gaps_become_rows_that_never_win(tmp_path, untied_base, zoo):
    """As GPT-4o's tokenizer: fewer tokens than ids, the highest id is a special token."""
    files = zoo["gemma-style"]
    spread = renumbered(dict(files.definition), lambda i: i + i // 3)
    out = transplant(untied_base, write_tokenizer(tmp_path / "gaps", spread, files.config), tmp_path / "out")
    target = load_tokenizer(str(out)).vocabulary
    plan = load_plan(out / "tokenadapt.plan")
    gaps = plan.mapping.ids(Reason.PADDING).tolist()
    assert sorted([*gaps, *(t.id for t in target)]) == list(range(target.num_ids))
    assert len(gaps) > 100
    tensors = tensors_of(out)
    assert len(tensors[EMBEDDINGS]) == len(tensors[HEAD]) == rows_of_config(out) == target.num_ids
    model = AutoModelForCausalLM.from_pretrained(out)
    torch.manual_seed(0)
    with torch.no_grad():
        winners = model(torch.randint(target.num_ids, (16, 64))).logits.argmax(-1)
    assert not set(winners.flatten().tolist()) & set(gaps)


def test_base_ids_with_gaps_are_never_copied_from(tmp_path, zoo, gemma_style_folder, tiny_model_folder):
    files = zoo["byte-level"]
    spread = renumbered(dict(files.definition), lambda i: 2 * i)
    base = tiny_model_folder(write_tokenizer(tmp_path / "gaps", spread, files.config), tmp_path / "base")
    tensors = tensors_of(base)
    assert len(tensors[EMBEDDINGS]) == 2 * files.vocabulary.num_ids - 1
    plan = load_plan(transplant(base, gemma_style_folder, tmp_path / "out", method="hybrid") / "tokenadapt.plan")
    used = torch.cat([torch.from_numpy(plan.mapping.sources)[plan.copied_ids], plan.composition.ids])
    assert len(used) > 400
    assert not (used % 2).any()


@pytest.mark.parametrize("method", ["mean", "hybrid", "calibrated"])
def test_base_ids_beyond_its_rows_are_not_used(tmp_path, zoo, byte_level_folder, tiny_model_folder, method):
    """Phi and others name tokens in the tokenizer that the matrices have no row for."""
    rows = zoo["byte-level"].vocabulary.num_ids - 60
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False, rows=rows)
    out = transplant(base, byte_level_folder, tmp_path / "out", method=method)
    plan = load_plan(out / "tokenadapt.plan")
    assert plan.num_rows == rows + 60 == len(tensors_of(out)[HEAD]) == rows_of_config(out)
    assert plan.mapping.sources.max() < rows
    assert len(plan.composition.ids) == 0 or plan.composition.ids.max() < rows
    lost = plan.mapping.reasons[rows:]
    assert (lost == Reason.NEW).sum() >= 59
    assert torch.equal(tensors_of(out)[EMBEDDINGS][:rows], tensors_of(base)[EMBEDDINGS])
    assert all(t.isfinite().all() for t in tensors_of(out).values())


def test_target_ids_beyond_the_donors_rows_are_refused(tmp_path, base, zoo, gemma_style_folder, tiny_model_folder):
    ids = zoo["gemma-style"].vocabulary.num_ids
    donor = tiny_model_folder(gemma_style_folder, tmp_path / "donor", rows=ids - 20)
    with pytest.raises(TokenAdaptError, match=rf"rows: donor means {ids - 20} rows.*at least {ids}"):
        transplant(base, donor, tmp_path / "out", rows="donor")
    assert not (tmp_path / "out").exists()
    out = transplant(base, donor, tmp_path / "out")
    assert len(tensors_of(out)[EMBEDDINGS]) == ids, "every token has a row, whatever the donor's config says"


def test_a_target_much_smaller_than_the_base(tmp_path, untied_base):
    definition = plain_definition([*"ab", "Ġa", "zz"], [added("<s>", 4)], decoder=BYTE_LEVEL)
    small = write_tokenizer(tmp_path / "small", definition, {"eos_token": "<s>"})
    out = transplant(untied_base, small, tmp_path / "out")
    before, after = tensors_of(untied_base), tensors_of(out)
    old = load_tokenizer(str(untied_base)).vocabulary
    for name in (EMBEDDINGS, HEAD):
        assert after[name].shape == (5, 32)
        for row, spelling in enumerate([*"ab", "Ġa"]):
            assert torch.equal(after[name][row], before[name][old.by_spelling[spelling].id])
        assert torch.equal(after[name][4], before[name][old.roles["eos"]])
        z = before[name][old.by_spelling["z"].id]
        torch.testing.assert_close(after[name][3], z)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model(torch.tensor([[0, 1, 2, 3, 4]])).logits.shape == (1, 5, 5)
