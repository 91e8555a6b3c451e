"""A tokenizer is what transformers makes of the whole folder, not only of its tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_zoo import BYTE_LEVEL, added, plain_definition, tiny_model_folder, write_tokenizer
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.output import as_loaded
from mergekit_tokenadapt.supertokens.making import extend_folder
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.tokenizer.auto_tokenizer import ROLES, auto_tokenizer, quiet_transformers
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer, tokenizer_of
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

SMALL = plain_definition(
    ["a", "b", "<s>", "Ġthe"], [added("<s>", 2), added("<t>", 4, special=False)], decoder=BYTE_LEVEL
)
PAD = {"content": "[PAD]", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}

BESIDE: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "role as a string": ({"pad_token": "[PAD]"}, {}),
    "role as an object": ({"pad_token": {"__type": "AddedToken", **PAD}}, {}),
    "a role of a media token": ({"image_token": "<image>"}, {}),
    "additional special tokens": ({"additional_special_tokens": ["<x>", "<y>", "b"]}, {}),
    "extra special tokens": ({"extra_special_tokens": ["<x>", "<t>"]}, {}),
    "extra special tokens by name": ({"extra_special_tokens": {"image_token": "<image>"}}, {}),
    "a decoder that makes a token special": ({"added_tokens_decoder": {"1": {"content": "b", "special": True}}}, {}),
    "a decoder with a gap": ({"added_tokens_decoder": {"9": {"content": "<x>", "special": True}}}, {}),
    "a decoder with another id": ({"added_tokens_decoder": {"9": {"content": "<t>", "special": True}}}, {}),
    "added_tokens.json": ({}, {"added_tokens.json": {"<x>": 5, "<y>": 6}}),
    "added_tokens.json out of order": ({}, {"added_tokens.json": {"<y>": 6, "<x>": 5}}),
    "special_tokens_map": ({"eos_token": "b"}, {"special_tokens_map.json": {"eos_token": "<s>", "pad_token": PAD}}),
    "lists in special_tokens_map": ({}, {"special_tokens_map.json": {"additional_special_tokens": ["<x>", "<y>"]}}),
    "defaults of a class": ({"tokenizer_class": "Qwen2Tokenizer"}, {}),
    "a class that forgets tokens": (
        {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"5": {"content": "<x>", "special": True}}},
        {},
    ),
    "nothing but a model type": ({}, {"config.json": {"model_type": "gpt2"}}),
}
"""Readable name -> (tokenizer_config.json, other files)."""


def folder_with(
    folder: Path, config: Mapping[str, Any], files: Mapping[str, Any], definition: Mapping[str, Any] = SMALL
) -> Path:
    write_tokenizer(folder, dict(definition), {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def assert_agrees(files: TokenizerFiles, judge: Any) -> None:
    """Ids, special tokens and roles are those of transformers."""
    vocabulary = files.vocabulary
    assert {t.id for t in vocabulary} == set(judge.get_vocab().values())
    assert {t.spelling: t.id for t in vocabulary}.items() <= judge.get_vocab().items()
    assert files.fast_tokenizer().get_vocab() == judge.get_vocab()
    flagged = {i for i, token in judge.added_tokens_decoder.items() if token.special}
    # transformers takes every token with a role for special. Entries of one character still stand for text.
    role_ids = set(vocabulary.roles.values())
    text = {t.id for t in vocabulary if t.kind is TokenKind.ORDINARY and len(t.bytes) == 1 and t.id in role_ids}
    assert set(vocabulary.ids(TokenKind.SPECIAL).tolist()) == (flagged | set(judge.all_special_ids)) - text
    roles = {role: getattr(judge, f"{role}_token_id") for role in ROLES}
    assert vocabulary.roles == {role: i for role, i in roles.items() if i is not None}


@pytest.mark.parametrize("beside", BESIDE)
def test_tokens_declared_beside_tokenizer_json_are_those_of_transformers(tmp_path: Path, beside: str) -> None:
    folder = folder_with(tmp_path / "t", *BESIDE[beside])
    assert_agrees(load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder))


WORDS = st.sampled_from(["a", "b", "<s>", "Ġthe", "<t>", "[PAD]", "<x>", "<y>", "y z"])
FLAGS = st.fixed_dictionaries({}, optional={flag: st.booleans() for flag in ("lstrip", "normalized", "special")})
ENTRIES = st.builds(lambda content, flags: {"content": content, **flags}, WORDS, FLAGS)
ROLE = st.one_of(
    st.none(), WORDS, WORDS.map(lambda word: {"__type": "AddedToken", "content": word, "normalized": False})
)
LISTS = st.lists(WORDS, max_size=3, unique=True)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        **{f"{role}_token": ROLE for role in ("bos", "eos", "pad", "mask")},
        "additional_special_tokens": LISTS,
        "extra_special_tokens": st.one_of(LISTS, st.dictionaries(st.sampled_from(["image_token", "v_token"]), WORDS)),
        "added_tokens_decoder": st.dictionaries(st.integers(0, 9).map(str), ENTRIES, max_size=3),
        "tokenizer_class": st.sampled_from(["GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizer", "NoSuchTokenizer"]),
    },
)
MAPS = st.fixed_dictionaries(
    {},
    optional={
        "eos_token": WORDS,
        "pad_token": WORDS.map(lambda w: PAD | {"content": w}),
        "additional_special_tokens": LISTS,
    },
)
OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "special_tokens_map.json": MAPS,
        "added_tokens.json": st.dictionaries(WORDS, st.integers(0, 9), max_size=3),
        "config.json": st.sampled_from(["llama", "qwen2", "gpt2", "bert"]).map(lambda kind: {"model_type": kind}),
    },
)


@settings(max_examples=120)
@given(config=CONFIGS, files=OTHERS)
def test_whatever_stands_beside_tokenizer_json(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], files: dict[str, Any]
) -> None:
    folder = folder_with(tmp_path_factory.mktemp("beside"), config, files)
    try:
        with quiet_transformers():
            judge = AutoTokenizer.from_pretrained(folder)
    except Exception:
        return
    assert_agrees(load_tokenizer(str(folder)), judge)


# --- what follows from it ------------------------------------------------------------------------


def test_every_id_of_the_outputs_own_tokenizer_has_a_row(tmp_path: Path, byte_level_folder: Path) -> None:
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    target = folder_with(tmp_path / "target", {"pad_token": "[PAD]"}, BESIDE["added_tokens.json"][1])
    out = transplant(base, target, tmp_path / "out")
    assert max(AutoTokenizer.from_pretrained(out).get_vocab().values()) == 7
    assert len(tensors_of(out)[EMBEDDINGS]) == 8


def test_a_bare_tokenizer_with_roles_beside_it_keeps_its_ids(tmp_path: Path, byte_level_folder: Path) -> None:
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    target = folder_with(tmp_path / "target", {}, {"special_tokens_map.json": {"pad_token": "[PAD]"}})
    (target / "tokenizer_config.json").unlink()
    ids = load_tokenizer(str(target)).vocabulary.ids().tolist()
    judge = AutoTokenizer.from_pretrained(transplant(base, target, tmp_path / "out"))
    assert sorted(judge.get_vocab().values()) == ids
    assert judge.pad_token == "[PAD]"


def test_the_row_of_a_token_declared_beside_the_base_is_used(tmp_path: Path) -> None:
    base = tiny_model_folder(folder_with(tmp_path / "b", {"pad_token": "[PAD]"}, {}), tmp_path / "base")
    definition = plain_definition(["[PAD]", "b", "a"], [added("[PAD]", 0)], decoder=BYTE_LEVEL)
    out = transplant(base, write_tokenizer(tmp_path / "target", definition, {"eos_token": "[PAD]"}), tmp_path / "out")
    old, new = (tensors_of(folder)[EMBEDDINGS] for folder in (base, out))
    assert len(old) == 6
    assert new[0].equal(old[5])


def test_an_extended_tokenizer_leaves_the_ids_of_such_tokens_alone(
    tmp_path: Path, zoo: Mapping[str, TokenizerFiles]
) -> None:
    files = zoo["byte-level"]
    folder = write_tokenizer(tmp_path / "t", dict(files.definition), {**files.config, "pad_token": "[PAD]"})
    text = tmp_path / "text.txt"
    text.write_text("the river of the mill and the stone of the mill " * 30, encoding="utf-8")
    base, limits = load_tokenizer(str(folder)), Limits(quiet=True)
    extended = extend_folder(tmp_path / "out", base, Corpus([str(text)]), 3, Rules(), limits, drop=False)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id == files.vocabulary.num_ids
    assert min(extended.added) > files.vocabulary.num_ids


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"added_tokens_decoder": {"9": {"content": "<x>"}}}, "gives '<x>' the id 9, but transformers reads it as 5"),
        ({"added_tokens_decoder": {"7": {"content": ""}}}, "gives '' the id 7, but transformers reads it as no token"),
    ],
    ids=["a gap", "an empty token"],
)
def test_ids_that_disagree_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, beside: dict[str, Any], says: str
) -> None:
    load_tokenizer(str(folder_with(tmp_path, beside, {})))
    assert says in caplog.text


def test_a_folder_that_only_remote_code_can_load_is_read_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil", "pad_token": "[PAD]"}
    files = load_tokenizer(str(folder_with(tmp_path, config, {})))
    assert files.vocabulary.roles == {"pad": 5}
    assert "AutoTokenizer cannot load it" in caplog.text


# --- beside another model's config.json ----------------------------------------------------------


def qwen2(folder: Path, tokenizer: Path, rows: int) -> Path:
    """A tiny Qwen2: transformers reads every tokenizer beside it by a class of its own."""
    config = Qwen2Config(vocab_size=rows, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    config.num_attention_heads = config.num_key_value_heads = 2
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_tokens_that_the_class_of_the_base_adds_have_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, byte_level_folder: Path
) -> None:
    base = qwen2(tmp_path / "base", byte_level_folder, 604)
    out = transplant(base, folder_with(tmp_path / "t", {"eos_token": "<s>"}, {}), tmp_path / "out")
    judge = AutoTokenizer.from_pretrained(out)
    assert judge.convert_tokens_to_ids("<|endoftext|>") == 5
    assert max(judge.get_vocab().values()) < len(tensors_of(out)[EMBEDDINGS])
    source = load_tokenizer(str(base)).vocabulary.by_spelling["<|endoftext|>"].id
    assert tensors_of(out)[EMBEDDINGS][5].equal(tensors_of(base)[EMBEDDINGS][source])
    assert "reads the target tokenizer as Qwen2Tokenizer, which adds '<|endoftext|>'" in caplog.text


def test_a_class_that_changes_nothing_is_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zoo: Mapping[str, TokenizerFiles], byte_level_folder: Path
) -> None:
    base = zoo["gemma-style"]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    target = zoo["byte-level"]
    assert as_loaded(target, base, tmp_path) is target
    assert not caplog.text


def test_a_class_that_segments_otherwise_is_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zoo: Mapping[str, TokenizerFiles]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert as_loaded(zoo["gemma-style"], zoo["byte-level"], tmp_path).vocabulary.num_ids > 0
    assert "segments text differently" in caplog.text


# --- dropout -------------------------------------------------------------------------------------

TEXT = "the river of the mill and the stone of the bread " * 20


def with_dropout(zoo: Mapping[str, TokenizerFiles], folder: Path) -> Path:
    definition = dict(zoo["byte-level"].definition)
    return write_tokenizer(
        folder, {**definition, "model": {**definition["model"], "dropout": 0.5}}, zoo["byte-level"].config
    )


def test_nothing_is_segmented_with_dropout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zoo: Mapping[str, TokenizerFiles]
) -> None:
    files, plain = load_tokenizer(str(with_dropout(zoo, tmp_path))), zoo["byte-level"]
    wanted = plain.fast_tokenizer().encode(TEXT).ids
    raw = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert raw["model"]["dropout"] == 0.5
    segmented = Segmenter(raw, plain.vocabulary).segment([TEXT.encode()])[0].tolist()
    for ids in (
        files.fast_tokenizer().encode(TEXT).ids,
        tokenizer_of(raw).encode(TEXT).ids,
        auto_tokenizer(tmp_path)(TEXT).input_ids,
        segmented,
    ):
        assert ids == wanted
    assert files.definition == plain.definition
    assert "dropout (0.5): other programs will segment text at random" in caplog.text


def test_a_base_with_dropout_gives_the_same_model_every_time(
    tmp_path: Path, zoo: Mapping[str, TokenizerFiles], gemma_style_folder: Path
) -> None:
    base = tiny_model_folder(with_dropout(zoo, tmp_path / "t"), tmp_path / "base")
    outs = [transplant(base, gemma_style_folder, tmp_path / f"out{n}") for n in range(2)]
    one, two = (tensors_of(out)[EMBEDDINGS] for out in outs)
    assert one.equal(two)


def test_a_target_with_dropout_keeps_its_file(
    tmp_path: Path, zoo: Mapping[str, TokenizerFiles], gemma_style_folder: Path
) -> None:
    base = tiny_model_folder(gemma_style_folder, tmp_path / "base")
    out = transplant(base, with_dropout(zoo, tmp_path / "t"), tmp_path / "out")
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "t" / "tokenizer.json").read_bytes()
