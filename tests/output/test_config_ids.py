"""Token ids in configs, wherever they are: the same tokens with other ids are the same config with other ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, added, byte_level, make_transfer, plain_definition, write_tokenizer
from transplanting import transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output.id_keys import shape_of
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.output.requirements import (
    as_token_map,
    check_needed,
    check_offsets,
    config_content,
    suggest_tokens,
)
from mergekit_tokenadapt.output.side_files import translate_spellings, write_processors
from mergekit_tokenadapt.output.translation import Translation, translate, warn_of
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

SPELLINGS = [*"abcdefghij", "<s>", "</s>", "<pad>", "<mask>", "<image>", "<|en|>", "<|de|>", "<|transcribe|>"]
FIRST_ADDED = 10
ROLES = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>"}
N = len(SPELLINGS)


def definition(order: list[int]) -> dict[str, Any]:
    """The tokens above; `order` says which id each of them has."""
    tokens = [added(SPELLINGS[t], order[t]) for t in range(FIRST_ADDED, N)]
    entries = {SPELLINGS[t]: order[t] for t in range(N)}
    return plain_definition(entries, sorted(tokens, key=lambda t: t["id"]), decoder=BYTE_LEVEL)


def ids_between(order: list[int], roles: Mapping[str, str] = ROLES) -> SpecialIds:
    old, new = definition(list(range(N))), definition(order)
    base = Vocabulary.from_definition(old, ROLES)
    target = Vocabulary.from_definition(new, roles)
    return SpecialIds(base, target, make_transfer((old, base), target).mapping)


def config_with(p: list[int]) -> dict[str, Any]:
    """A config of every kind of ids, as a model would have it whose token t has the id p[t]."""
    return {
        "vocab_size": N,
        "bos_token_id": p[10],
        "eos_token_id": [p[11], p[3]],
        "pad_index": p[12],
        "_pad_token_id": p[12],
        "mask_token_id": p[13],
        "image_token_index": p[14],
        "boi_token_id": p[4],
        "image_token_ids": [p[14], p[5]],
        "visual_tokens_ids": [[p[1]], [p[2], p[3]]],
        "im_start_id": p[15],
        "text_config": {"eos_token_id": p[11], "audio_token_index": p[9], "vocab_size": N},
        "backbones": [{"image_token_id": p[14], "num_layers": 3}],
        "suppress_tokens": [p[0], p[7], -1],
        "bad_words_ids": [[p[1], p[2]], [p[3]]],
        "force_words_ids": [[[p[1]], [p[2], p[4]]]],
        "sequence_bias": [[[p[5]], -1.5], [[p[6], p[7]], 2.0]],
        "forced_decoder_ids": [[1, p[15]], [2, p[17]], [3, None]],
        "lang_to_id": {"<|en|>": p[15], "<|de|>": p[16]},
        "task_to_id": {"transcribe": p[17]},
        "lang_code_to_id": {"en_XX": p[2]},
        "vocabulary_map": {"a": p[0], "<image>": p[14]},
        "id2token": dict(sorted({str(p[4]): "e", str(p[13]): "<mask>"}.items(), key=lambda pair: int(pair[0]))),
        "task_specific_params": {"summarization": {"decoder_start_token_id": p[11], "num_beams": 4}},
        "vocab_list": [SPELLINGS[p.index(i)] for i in range(N)],
    }


@given(st.permutations(range(N)))
def test_the_same_tokens_with_other_ids(order: list[int]) -> None:
    translation = translate(config_with(list(range(N))), ids_between(order))
    assert translation.config == config_with(order)
    assert not translation.lost


NOT_IDS = {
    "mm_tokens_per_image": 4,
    "max_new_tokens": 5,
    "num_hidden_layers": 2,
    "hybrid_layer_ids": [1, 2, 11],
    "insert_layer_id": 11,
    "deepstack_visual_indexes": [10, 11, 12],
    "fullatt_block_indexes": [10, 11],
    "label2id": {"a": 0, "b": 1},
    "id2label": {"0": "a", "1": "b"},
    "lang2id": {"en": 3, "de": 1},
    "codebook_eos_token_id": 0,
    "t2u_pad_token_id": 1,
    "vocoder_lang_code_to_id": {"en": 3},
    "char_to_id": {"b": 1, "c": 0},
    "codec_pad_id": 12,
    "alignment_heads": [[1, 2], [3, 4]],
    "rope_parameters": {"factor": 8, "original_max_position_embeddings": 11},
    "ce_ignore_index": -100,
    "use_mask_token": True,
    "mask_token": True,
    "use_task_id": False,
    "summary_idxs": [0, 1],
    "image_token_embed_dim": 12,
    "exponential_decay_length_penalty": [5, 1.1],
    "scale": {"a": 0.5},
}


@pytest.mark.parametrize("key", NOT_IDS)
def test_numbers_that_are_no_ids_stay(key: str) -> None:
    ids = ids_between([*range(1, N), 0])
    assert translate({key: NOT_IDS[key]}, ids).config == {key: NOT_IDS[key]}
    assert shape_of(key, NOT_IDS[key], ids.base) is None


def test_a_foreign_vocabulary_keeps_its_ids() -> None:
    config = {"audio": {"pad_token_id": 12, "inner": {"eos_token_id": 11}}, "pad_token_id": 12}
    ids = ids_between([*range(1, N), 0])
    translated = translate(config, ids, foreign=[("audio",)]).config
    assert translated == {"audio": config["audio"], "pad_token_id": 13}


def test_a_bias_whose_phrases_are_keys_becomes_a_list() -> None:
    ids = ids_between([*range(1, N), 0])
    bias = {"(5, 6)": -1.0, "[7]": 2, "8": 0.5}
    expected = [[[6, 7], -1.0], [[8], 2], [[9], 0.5]]
    assert translate({"sequence_bias": bias}, ids).config == {"sequence_bias": expected}


LOSING = {
    "image_token_index": (14, None),
    "suppress_tokens": ([1, 14], [1]),
    "bad_words_ids": ([[1, 14], [2]], [[2]]),
    "force_words_ids": ([[1, 14]], None),
    "sequence_bias": ([[[14], 1.0], [[2], 2.0]], [[[2], 2.0]]),
    "forced_decoder_ids": ([[1, 14], [2, 3]], [[2, 3]]),
    "lang_to_id": ({"<|en|>": 15, "<image>": 14}, {"<|en|>": 15}),
    "image_token_ids": ([14, 15], [15]),
    "eos_token_id": ([11, 14], [11]),
    "mask_token_id": (14, 13),  # the target says what its role is
}


def without_image() -> SpecialIds:
    old = definition(list(range(N)))
    new = json.loads(json.dumps(old))
    new["added_tokens"] = [{**t, "content": "<other>"} if t["content"] == "<image>" else t for t in old["added_tokens"]]
    new["model"]["vocab"] = {("<other>" if s == "<image>" else s): i for s, i in old["model"]["vocab"].items()}
    base, target = Vocabulary.from_definition(old, ROLES), Vocabulary.from_definition(new, ROLES)
    return SpecialIds(base, target, make_transfer((old, base), target).mapping)


@pytest.mark.parametrize("key", LOSING)
def test_what_the_target_lacks_is_dropped_and_said(key: str, caplog: pytest.LogCaptureFixture) -> None:
    old, new = LOSING[key]
    translation = translate({key: old}, without_image())
    assert translation.config == {key: new}
    warn_of(translation, translation)
    assert [r.message.split(" ")[0] for r in caplog.records] == ([] if key == "mask_token_id" else [key])
    assert "<image>" in caplog.text or key == "mask_token_id"


def test_ids_in_a_shape_that_nothing_reads_are_refused() -> None:
    with pytest.raises(TokenAdaptError, match="sequence_bias does not hold token ids"):
        translate({"sequence_bias": [5, 6]}, ids_between(list(range(N))))


# --- tokens that a model does not load without ---------------------------------------------------


def files_of(ids: SpecialIds, chat_template: str = "") -> Any:
    return SimpleNamespace(vocabulary=ids.target, chat_templates={"default": chat_template})


@pytest.mark.parametrize("config", [{"pad_token_id": 12, "bos_token_id": 10}, {"text_config": {"pad_token_id": 12}}])
def test_a_token_that_the_user_chose_is_pad(config: Mapping[str, Any]) -> None:
    """Without a choice, a target without a pad token has none, whatever got its row."""
    old = definition(list(range(N)))
    new = json.loads(json.dumps(old).replace('"<pad>"', '"<other>"'))
    base = Vocabulary.from_definition(old, ROLES)
    target = Vocabulary.from_definition(new, {"eos": "</s>", "bos": "<s>"})
    for token_map, pad in (({}, None), ({"<pad>": "<other>"}, 12)):
        ids = SpecialIds(base, target, make_transfer((old, base), target, token_map=token_map).mapping)
        expected = json.loads(json.dumps(config).replace('"pad_token_id": 12', f'"pad_token_id": {json.dumps(pad)}'))
        assert translate(config, ids).config == expected


def vision_model() -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(image_token_id=14, video_token_id=15, vision_start_token_id=16, vision_end_token_id=17)


def test_a_token_that_the_config_needs_is_asked_for() -> None:
    ids = without_image()
    mapping = make_transfer((definition(list(range(N))), ids.base), ids.target).mapping
    config = vision_model()
    translation = translate(config_content(config), ids)
    with pytest.raises(TokenAdaptError) as raised:
        check_needed(config, translation, files_of(ids), mapping)
    assert str(raised.value) == (
        "the model does not load without image_token_id '<image>', and the target tokenizer has no such token: let "
        'other special tokens stand for them, as in token_map: {"<image>": "<other>"} (--token-map \'<image>=<other>\')'
    )


def test_what_is_advised_works() -> None:
    ids = without_image()
    base = (definition(list(range(N))), ids.base)
    mapping = make_transfer(base, ids.target).mapping
    pairs = suggest_tokens(["<image>"], files_of(ids), mapping)
    mended = make_transfer(base, ids.target, token_map=pairs).mapping
    mended_ids = SpecialIds(ids.base, ids.target, mended)
    config = vision_model()
    translation = translate(config_content(config), mended_ids)
    check_needed(config, translation, files_of(ids), mended)
    assert translation.config["image_token_id"] == 14


@pytest.mark.parametrize(
    ("architecture", "is_warned_of"), [("LlamaForSequenceClassification", True), ("LlamaForCausalLM", False)]
)
def test_a_model_that_reads_several_texts_only_with_a_pad_token(
    architecture: str, is_warned_of: bool, caplog: pytest.LogCaptureFixture
) -> None:
    old = definition(list(range(N)))
    new = json.loads(json.dumps(old).replace('"<pad>"', '"<other>"'))
    base = Vocabulary.from_definition(old, ROLES)
    target = Vocabulary.from_definition(new, {"eos": "</s>", "bos": "<s>"})
    mapping = make_transfer((old, base), target).mapping
    ids = SpecialIds(base, target, mapping)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 10, "eos_token_id": 11, "pad_token_id": 12}
    config = transformers.LlamaConfig(vocab_size=N, architectures=[architecture], **special, **sizes)
    translation = translate(config_content(config), ids)
    assert translation.config["pad_token_id"] is None
    check_needed(config, translation, files_of(ids), mapping)
    warned = "without pad_token_id '<pad>', which the target tokenizer does not have, the model reads only one text"
    assert [message.startswith(warned) for message in caplog.messages] == [True] * is_warned_of


def test_no_token_is_advised_twice() -> None:
    ids = without_image()
    mapping = make_transfer((definition(list(range(N))), ids.base), ids.target).mapping
    assert suggest_tokens(["<image>", "<video>"], files_of(ids), mapping) is None
    used = files_of(ids, chat_template="{{ '<other>' }}")
    assert suggest_tokens(["<image>"], used, mapping) is None, "the template has a use for it"
    assert as_token_map({"<a>": "<b>", "<c>": "<d>"}) == (
        'token_map: {"<a>": "<b>", "<c>": "<d>"} (--token-map \'<a>=<b>\' --token-map \'<c>=<d>\')'
    )


def test_ids_that_are_looked_up_elsewhere_keep_their_tokens() -> None:
    """Gemma 3n has tables of vision tokens, for all ids from an offset on."""
    last = N - 4
    config = {"vision_config": {"vocab_offset": last, "vocab_size": 4, "dtype_offset": 0}}
    old = definition(list(range(N)))
    base = Vocabulary.from_definition(old, ROLES)
    for order, allowed in (([1, 0, *range(2, N)], True), ([*range(N - 2), N - 1, N - 2], False)):
        mapping = make_transfer((old, base), Vocabulary.from_definition(definition(order), ROLES)).mapping
        if allowed:
            check_offsets(config, mapping)
        else:
            with pytest.raises(TokenAdaptError, match=r"vision_config\.vocab_offset is 14.*2 other tokens there"):
                check_offsets(config, mapping)


# --- files of processors -------------------------------------------------------------------------


def test_processors_are_carried_along_with_the_targets_tokens(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    content = {
        "image_token": "<image>",
        "image_token_id": 14,
        "inner": {"boi_token": "<|en|>"},
        "size": 14,
        "x_token": "?",
    }
    (base / "processor_config.json").write_text(json.dumps(content))
    (base / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "crop_size": 14}))
    processor, preprocessor = write_processors(base, out, without_image())
    assert json.loads((out / "processor_config.json").read_text()) == {**content, "image_token_id": None}
    assert {each.key for each in processor.lost} == {"image_token", "image_token_id"}
    assert not preprocessor.lost
    assert json.loads((out / "preprocessor_config.json").read_text()) == {"image_mean": [0.5], "crop_size": 14}
    assert not (out / "video_preprocessor_config.json").exists()


def test_a_token_that_stands_for_another_is_named_in_its_place() -> None:
    ids = without_image()
    base = (definition(list(range(N))), ids.base)
    mapping = make_transfer(base, ids.target, token_map={"<image>": "<other>"}).mapping
    mended = SpecialIds(ids.base, ids.target, mapping)
    translation = translate_spellings(Translation({"image_token": "<image>"}), mended)
    assert translation == Translation({"image_token": "<other>"})


@pytest.mark.parametrize(
    ("adapt", "expected"), [(True, {"normalizer.json"}), (False, {"normalizer.json", "vocab.json"})]
)
def test_mergekit_copies_no_file_of_the_old_tokenizer(
    adapt: bool, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its definition of Qwen2-VL asks for the base's vocab.json, after everything else is written."""
    import mergekit.merge

    from mergekit_tokenadapt.plugin import activate

    activate()
    base, out = tmp_path / "base", tmp_path / "out"
    for folder in (base, out):
        folder.mkdir()
    for name in ("vocab.json", "normalizer.json"):
        (base / name).write_text("{}")
    monkeypatch.setattr(mergekit.merge, "_get_donor_model", lambda *_args, **_options: ("base", str(base)))
    recipe = SimpleNamespace(tokenizer=SimpleNamespace(adapt=object() if adapt else None))
    mergekit.merge._copy_tagalong_files(recipe, str(out), ["vocab.json", "normalizer.json"], options=None)
    assert {file.name for file in out.iterdir()} == expected


def test_a_model_that_looks_at_values_is_not_refused_for_that(tmp_path: Path) -> None:
    """GPT-2 with a pad token asks whether ids are pad, which the meta device cannot tell: no reason to refuse."""
    definition, config = byte_level()
    tokenizer = write_tokenizer(tmp_path / "base-tokenizer", definition, config)
    no_bos = {key: value for key, value in config.items() if key != "bos_token"}
    target = write_tokenizer(tmp_path / "target", definition, {**no_bos, "pad_token": "<|endoftext|>"})
    roles = load_tokenizer(str(tokenizer)).vocabulary.roles
    base = tmp_path / "base"
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=load_tokenizer(str(tokenizer)).vocabulary.num_ids,
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=64,
            bos_token_id=roles["bos"],
            eos_token_id=roles["eos"],
            pad_token_id=None,
        )
    ).save_pretrained(base)
    for file in tokenizer.iterdir():
        shutil.copy(file, base)
    out = transplant(base, target, tmp_path / "out")
    made = json.loads((out / "config.json").read_text())
    assert made.get("bos_token_id") is None
    assert made["pad_token_id"] == load_tokenizer(str(target)).vocabulary.roles["pad"]
