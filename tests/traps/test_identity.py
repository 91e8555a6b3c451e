"""Nothing changes where nothing should: the same tokenizer, other ids for it, other classes that load it."""

from __future__ import annotations

import json
import shutil

import pytest
import tokenizers_zoo
import torch
from tokenizers_zoo import LOSSLESS, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.transfer.matching import match
from mergekit_tokenadapt.transfer.plan_files import load_plan


def test_the_same_tokenizer_is_bit_identical(tmp_path, base):
    out = transplant(base, base, tmp_path / "out", method="hybrid")
    before, after = tensors_of(base), tensors_of(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (base / name).read_bytes() == (out / name).read_bytes()


def test_the_same_tokenizer_keeps_padding_rows(tmp_path, byte_level_folder, tiny_model_folder):
    padded = tiny_model_folder(byte_level_folder, tmp_path / "padded", rows=1024)
    out = transplant(padded, padded, tmp_path / "out")
    assert torch.equal(tensors_of(padded)[EMBEDDINGS], tensors_of(out)[EMBEDDINGS])
    exact = transplant(padded, padded, tmp_path / "exact", rows="exact")
    assert len(tensors_of(exact)[EMBEDDINGS]) == load_tokenizer(str(padded)).vocabulary.num_ids


def test_the_same_tokenizer_is_bit_identical_in_an_untied_model(tmp_path, untied_base):
    out = transplant(untied_base, untied_base, tmp_path / "out", method="calibrated")
    before, after = tensors_of(untied_base), tensors_of(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", LOSSLESS)
def test_permuted_ids_give_equal_logits(tmp_path, zoo_folders, zoo, tiny_model_folder, family, tied):
    base = tiny_model_folder(zoo_folders[family], tmp_path / "base", tied=tied)
    files = zoo[family]
    ids = tokenizers_zoo.permutation(files.vocabulary.num_ids, seed=4)
    moved = tokenizers_zoo.renumbered(dict(files.definition), ids.__getitem__)
    out = transplant(base, write_tokenizer(tmp_path / "moved", moved, files.config), tmp_path / "out", method="hybrid")
    assert load_plan(out / "tokenadapt.plan").counts()["new"] == 0
    text = "\n".join(tokenizers_zoo.CORPUS[:3])
    old_ids, new_ids = (AutoTokenizer.from_pretrained(f)(text, return_tensors="pt").input_ids for f in (base, out))
    places = torch.tensor(ids)
    assert torch.equal(new_ids, places[old_ids])
    assert not torch.equal(new_ids, old_ids)
    with torch.no_grad():
        old, new = (
            AutoModelForCausalLM.from_pretrained(folder)(numbers).logits
            for folder, numbers in ((base, old_ids), (out, new_ids))
        )
    torch.testing.assert_close(new[..., places], old)


def test_permuted_ids_keep_every_row_bit_for_bit(tmp_path, untied_base, zoo):
    files = zoo["byte-level"]
    ids = torch.tensor(tokenizers_zoo.permutation(files.vocabulary.num_ids, seed=6))
    moved = tokenizers_zoo.renumbered(dict(files.definition), lambda i: int(ids[i]))
    out = transplant(untied_base, write_tokenizer(tmp_path / "moved", moved, files.config), tmp_path / "out")
    before, after = tensors_of(untied_base), tensors_of(out)
    for name in (EMBEDDINGS, HEAD):
        assert torch.equal(after[name][ids], before[name])


@pytest.mark.parametrize(
    "tokenizer_class",
    ["PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "NoSuchTokenizer", None],
)
def test_the_class_that_would_load_it_does_not_matter(tmp_path, zoo, tokenizer_folder, family, tokenizer_class):
    """What spells a byte is said by the definition; the class name is often another one's."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    config = {**zoo[family].config, "tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    own, found = zoo[family].vocabulary, load_tokenizer(str(folder)).vocabulary
    assert found.tokens[: len(own)] == own.tokens
    # Some classes add control tokens of their own, which AutoTokenizer then has, too.
    assert {t.kind for t in found.tokens[len(own) :]} <= {TokenKind.SPECIAL}
    assert found.roles.items() >= own.roles.items()


def test_a_tokenizer_that_transformers_saved_is_the_same_tokenizer(tmp_path, zoo, tokenizer_folder, family):
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path)
    found = match(zoo[family].vocabulary, load_tokenizer(str(tmp_path)).vocabulary)
    assert found.is_identity


def test_slow_files_and_tokenizer_json_are_the_same_tokenizer(tmp_path):
    """BERT's vocab.txt, converted on the way in, and the tokenizer.json made from it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "##s", ".", "河", "##é"]
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.mkdir()
    (slow / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (slow / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    AutoTokenizer.from_pretrained(slow).save_pretrained(fast)
    assert (fast / "tokenizer.json").is_file()
    assert not (slow / "tokenizer.json").exists()
    assert match(load_tokenizer(str(slow)).vocabulary, load_tokenizer(str(fast)).vocabulary).is_identity
