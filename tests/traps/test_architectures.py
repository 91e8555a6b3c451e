"""Which tensors change: tied and untied, vocabulary biases, encoders, several modules; all others not a bit."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers_zoo import added, write_tokenizer
from transformers import AutoModelForCausalLM
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan


def test_untied_matrices_share_the_plan_and_all_else_is_untouched(tmp_path, untied_base, unigram_folder):
    out = transplant(untied_base, unigram_folder, tmp_path / "out")
    before, after = tensors_of(untied_base), tensors_of(out)
    assert before.keys() == after.keys()
    plan = load_plan(out / "tokenadapt.plan")
    for name in (EMBEDDINGS, HEAD):
        assert torch.equal(after[name], plan.apply(before[name]).rows)
    untouched = before.keys() - {EMBEDDINGS, HEAD}
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    model = AutoModelForCausalLM.from_pretrained(str(out))
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, after[HEAD])


@pytest.fixture
def masked_model(tmp_path, wordpiece_folder):
    """``masked_model("DistilBert")``: (folder, model) of a tiny masked language model with a vocabulary bias."""

    def make(name):
        files = load_tokenizer(str(wordpiece_folder))
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        if name == "DistilBert":
            small = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
        config = getattr(transformers, f"{name}Config")(vocab_size=files.vocabulary.num_ids, **small)
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForMaskedLM")(config)
        model.save_pretrained(tmp_path / name)
        write_tokenizer(tmp_path / name, files.definition, files.config)
        return tmp_path / name, model

    return make


def test_a_masked_language_model_keeps_its_vocabulary_bias(tmp_path, masked_model, unigram_folder):
    folder, model = masked_model("DistilBert")
    bias = torch.randn_like(model.vocab_projector.bias)
    save_file({**tensors_of(folder), "vocab_projector.bias": bias}, str(folder / "model.safetensors"))
    out = transplant(folder, unigram_folder, tmp_path / "out")
    plan = load_plan(out / "tokenadapt.plan")
    adapted, loading = transformers.AutoModelForMaskedLM.from_pretrained(str(out), output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(adapted.vocab_projector.bias, plan.apply(bias).rows)
    assert adapted.distilbert.embeddings.position_embeddings.weight.shape == (512, 32)


def test_tensors_that_mergekits_definition_leaves_out_are_carried_over(tmp_path, masked_model, unigram_folder):
    folder, _ = masked_model("Bert")  # mergekit 0.1.5 does not know of the head's transform
    tensors = {**tensors_of(folder), "bert.pooler.dense.weight": torch.eye(32)}
    save_file({**tensors, "bert.pooler.dense.bias": torch.zeros(32)}, str(folder / "model.safetensors"))
    said = assert_sound_or_refused(folder, unigram_folder, tmp_path / "out", transformers.AutoModelForMaskedLM)
    assert said is None, said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_no_tensor_is_missing_added_or_changed(
    tmp_path, byte_level_folder, unigram_folder, tiny_model_folder, dtype, tied
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied, dtype=dtype)
    before, after = tensors_of(base), tensors_of(transplant(base, unigram_folder, tmp_path / "out", method="hybrid"))
    assert (HEAD in before) == (not tied)
    assert before.keys() == after.keys()
    assert all(t.dtype == dtype for t in after.values())
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - {EMBEDDINGS, HEAD})
    assert len(after[EMBEDDINGS]) != len(before[EMBEDDINGS])


def with_stored_head(folder, value=None):
    """A tied model whose checkpoint holds an output matrix all the same: the input's, or one of `value`."""
    tensors = tensors_of(folder)
    head = tensors[EMBEDDINGS].clone() if value is None else torch.full_like(tensors[EMBEDDINGS], value)
    save_file({**tensors, HEAD: head}, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [None, 0.01], ids=["equal", "other"])
def test_a_stray_output_matrix_of_a_tied_model_is_carried_along(
    tmp_path, byte_level_folder, unigram_folder, tiny_model_folder, value
):
    """Some versions of transformers load it, others do not: either way the output is what the base was."""
    base = with_stored_head(tiny_model_folder(byte_level_folder, tmp_path / "base"), value)
    out = transplant(base, unigram_folder, tmp_path / "out")
    before, after = tensors_of(base), tensors_of(out)
    plan = load_plan(out / "tokenadapt.plan")
    assert before.keys() == after.keys()
    for name in (EMBEDDINGS, HEAD):
        assert torch.equal(after[name], plan.apply(before[name]).rows)
    assert torch.equal(after[EMBEDDINGS], after[HEAD]) == (value is None)


def test_untie_does_not_take_a_stray_output_matrix(tmp_path, byte_level_folder, unigram_folder, tiny_model_folder):
    plain = tiny_model_folder(byte_level_folder, tmp_path / "plain")
    equal = with_stored_head(tiny_model_folder(byte_level_folder, tmp_path / "equal"))
    expected, found = (
        tensors_of(transplant(model, unigram_folder, tmp_path / f"out-{model.name}", untie=True))
        for model in (plain, equal)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other = with_stored_head(tiny_model_folder(byte_level_folder, tmp_path / "other"), 0.01)
    with pytest.raises(
        TokenAdaptError, match=r"untie: .*lm_head.weight is stored with other values.*tie_word_embeddings"
    ):
        transplant(other, unigram_folder, tmp_path / "out", untie=True)
    assert not (tmp_path / "out").exists()


def test_an_untied_base_stays_untied_with_the_tokenizer_of_a_tied_model(
    tmp_path, untied_base, unigram_folder, tiny_model_folder
):
    target = tiny_model_folder(unigram_folder, tmp_path / "target", tied=True)
    out = transplant(untied_base, target, tmp_path / "out")
    plain = transplant(untied_base, unigram_folder, tmp_path / "plain")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    before, after = tensors_of(plain), tensors_of(out)
    assert before.keys() == after.keys() == tensors_of(untied_base).keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(after[HEAD], after[EMBEDDINGS])


def test_a_tied_base_stays_tied_with_the_tokenizer_of_an_untied_model(
    tmp_path, base, unigram_folder, tiny_model_folder
):
    target = tiny_model_folder(unigram_folder, tmp_path / "target", tied=False)
    out = transplant(base, target, tmp_path / "out")
    assert HEAD not in tensors_of(out)
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings is True


# --- other kinds of models ------------------------------------------------------------------------


@pytest.fixture
def small_model(tmp_path, sentencepiece_bpe_folder):
    """``small_model(config)``: folder of a tiny model of any class, with the SentencePiece tokenizer."""
    files = load_tokenizer(str(sentencepiece_bpe_folder))

    def make(model_class, config):
        torch.manual_seed(0)
        folder = tmp_path / model_class.__name__
        model_class(config).save_pretrained(folder)
        write_tokenizer(folder, files.definition, files.config)
        return folder

    rows = files.vocabulary.num_ids
    return lambda model_class, config_class, **options: make(model_class, config_class(vocab_size=rows, **options))


def assert_sound_or_refused(folder, target, out, model_class):
    """One line that says why; or a model that loads, with exactly its vocabulary tensors changed."""
    said = None
    try:
        transplant(folder, target, out)
    except TokenAdaptError as error:
        said = str(error)
    if said is not None:
        assert "\n" not in said
        assert not out.exists()
        return said
    before, after = tensors_of(folder), tensors_of(out)
    old, new = (load_tokenizer(str(f)).vocabulary.num_ids for f in (folder, out))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if old in tensor.shape:
            assert new in after[name].shape, name
        else:
            assert torch.equal(after[name], tensor), name
    _, loading = model_class.from_pretrained(out, output_loading_info=True)
    base = model_class.from_pretrained(folder, output_loading_info=True)[1]
    assert all(len(loading[key]) == len(base[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return None


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert"])
def test_encoders_without_a_head_are_handled_or_refused(tmp_path, small_model, unigram_folder, name):
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16} if name == "DistilBert" else SIZES
    model_class = getattr(transformers, f"{name}Model")
    folder = small_model(model_class, getattr(transformers, f"{name}Config"), pad_token_id=0, **sizes)
    said = assert_sound_or_refused(folder, unigram_folder, tmp_path / "out", model_class)
    assert said is None or "mergekit" in said


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_encoder_decoders(tmp_path, small_model, unigram_folder, feed_forward, tied):
    """mergekit knows T5 1.1 and its kin, whose feed-forward layers are gated, and not all of the first T5."""
    model_class = transformers.T5ForConditionalGeneration
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    options = {"feed_forward_proj": feed_forward, "tie_word_embeddings": tied}
    folder = small_model(model_class, transformers.T5Config, **sizes, **options)
    said = assert_sound_or_refused(folder, unigram_folder, tmp_path / "out", model_class)
    assert said is None, said


def with_image_tokens(tokenizer_folder, folder):
    """The same tokenizer with the tokens that stand for an image, its beginning and its end."""
    files = load_tokenizer(str(tokenizer_folder))
    names = [added(spelling, files.vocabulary.num_ids + n) for n, spelling in enumerate(("<image>", "<boi>", "<eoi>"))]
    definition = {**files.definition, "added_tokens": [*files.definition["added_tokens"], *names]}
    return write_tokenizer(folder, definition, files.config)


def test_a_model_of_several_modules_with_a_nested_config(tmp_path, sentencepiece_bpe_folder, unigram_folder):
    """Gemma 3 with its vision tower: the language model's matrix changes, the tower does not."""
    base = with_image_tokens(sentencepiece_bpe_folder, tmp_path / "base")
    target = with_image_tokens(unigram_folder, tmp_path / "target")
    files = load_tokenizer(str(base))
    index = {name: files.vocabulary.by_spelling[f"<{name}>"].id for name in ("image", "boi", "eoi")}
    config = transformers.Gemma3Config(
        text_config={
            **SIZES,
            "vocab_size": files.vocabulary.num_ids,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "eos_token_id": files.vocabulary.roles["eos"],
        },
        vision_config={**SIZES, "image_size": 28, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        eos_token_id=[files.vocabulary.roles["eos"]],
        **{f"{name}_token_index": token_id for name, token_id in index.items()},
    )
    torch.manual_seed(0)
    folder = tmp_path / "model"
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder, files.definition, files.config)
    out = tmp_path / "out"
    # The names on the hub, which mergekit knows; transformers 5 leaves out a part when it saves.
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in tensors_of(folder).items()
        if not name.startswith("vision_tower.head")
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    said = assert_sound_or_refused(folder, target, out, transformers.Gemma3ForConditionalGeneration)
    assert said is None, said
    written = json.loads((out / "config.json").read_text())
    target = load_tokenizer(str(target)).vocabulary
    assert written["text_config"]["vocab_size"] == target.num_ids
    assert written["text_config"]["eos_token_id"] == target.roles["eos"]
    assert written["eos_token_id"] == [target.roles["eos"]]


def test_an_architecture_that_mergekit_has_no_definition_of(tmp_path, small_model, unigram_folder):
    folder = small_model(
        transformers.OPTForCausalLM,
        transformers.OPTConfig,
        ffn_dim=16,
        word_embed_proj_dim=16,
        **{k: v for k, v in SIZES.items() if k != "intermediate_size"},
    )
    said = assert_sound_or_refused(folder, unigram_folder, tmp_path / "out", transformers.OPTForCausalLM)
    assert said is None or "mergekit" in said


def test_the_output_loads_without_a_warning(tmp_path, base, untied_base, unigram_folder, caplog, recwarn):
    logging.getLogger("transformers").propagate = True
    for name, model in (("tied", base), ("untied", untied_base)):
        out = transplant(model, unigram_folder, tmp_path / name)
        caplog.clear()
        recwarn.clear()
        _, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        transformers.AutoTokenizer.from_pretrained(out)
        transformers.GenerationConfig.from_pretrained(out)
        assert not any(loading.values()), loading
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert [str(w.message) for w in recwarn] == []
