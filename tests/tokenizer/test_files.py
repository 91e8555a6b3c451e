"""Finding and reading a tokenizer on disk."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers_zoo import BYTE_LEVEL, CHAT_TEMPLATE, METASPACE, Built, added, plain_definition, write_tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer, read_json
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

SMALL = plain_definition(["a", "b", "<s>", "</s>"], [added("<s>", 2), added("</s>", 3)], decoder=BYTE_LEVEL)


# --- finding -------------------------------------------------------------------------------------


def test_a_folder_and_its_tokenizer_json_are_the_same_tokenizer(tokenizer_folder: Path) -> None:
    by_folder = load_tokenizer(str(tokenizer_folder))
    by_file = load_tokenizer(str(tokenizer_folder / "tokenizer.json"))
    assert by_folder.folder == by_file.folder == tokenizer_folder
    assert by_folder.vocabulary == by_file.vocabulary
    assert by_folder.name == str(tokenizer_folder)


def test_a_bare_tokenizer_json_is_enough(tmp_path: Path) -> None:
    files = load_tokenizer(str(write_tokenizer(tmp_path, SMALL)))
    assert len(files.vocabulary) == 4
    assert (files.config, files.role_tokens, files.chat_template, files.model_rows) == ({}, {}, None, None)


def test_a_tokenizer_that_is_nowhere_is_one_clear_error() -> None:
    with pytest.raises(TokenAdaptError, match=r"no tokenizer found at '\./nowhere/at all'"):
        load_tokenizer("./nowhere/at all")


def test_an_unknown_hub_id_is_one_clear_error() -> None:
    with pytest.raises(TokenAdaptError, match=r"no tokenizer found at 'nobody/nothing-here'.*hub id") as caught:
        load_tokenizer("nobody/nothing-here")
    assert "\n" not in str(caught.value)


def test_a_folder_without_any_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TokenAdaptError, match=r"holds no tokenizer\.json") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_tokenizer_json_is_converted(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 16}', encoding="utf-8")
    before = sorted(f.name for f in tmp_path.iterdir())
    files = load_tokenizer(str(tmp_path))
    assert [t.spelling for t in files.vocabulary] == words
    assert files.model_rows == 16
    assert files.name == str(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == before, "the source folder is not written to"
    assert (files.folder / "tokenizer.json").is_file(), "the converted files live as long as the object"
    folder = files.folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del files
        gc.collect()
    assert not folder.exists()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


# --- broken files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1, 2]", "JSON object, not a list"),
        (b"null", "JSON object, not a NoneType"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{}", "is not a tokenizer that `tokenizers` can read"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "is not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a zzz"]}}', "is not a tokenizer"),
    ],
    ids=["empty", "cut off", "binary", "list", "null", "deep", "no model", "negative id", "wrong merges"],
)
def test_a_broken_tokenizer_json_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenAdaptError, match=message) as caught:
        load_tokenizer(str(tmp_path))
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json", "config.json"])
def test_a_broken_companion_file_is_one_clear_error(tmp_path: Path, file: str) -> None:
    write_tokenizer(tmp_path, SMALL)
    (tmp_path / file).write_text("{'single': 'quotes'}", encoding="utf-8")
    with pytest.raises(TokenAdaptError, match=f"{file} is not valid JSON"):
        _ = (files := load_tokenizer(str(tmp_path))).role_tokens, files.model_rows


def test_read_json_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}


# --- roles ---------------------------------------------------------------------------------------


def test_roles_are_read_from_strings_and_from_objects(load: Callable[..., TokenizerFiles]) -> None:
    files = load(SMALL, {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>"})
    assert files.role_tokens == {"bos": "<s>", "eos": "</s>"}
    assert files.vocabulary.roles == {"bos": 2, "eos": 3}


def test_a_role_that_is_null_is_missing(load: Callable[..., TokenizerFiles]) -> None:
    files = load(SMALL, {"bos_token": None, "eos_token": "</s>", "pad_token": None})
    assert files.role_tokens == {"eos": "</s>"}


def test_special_tokens_map_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, SMALL, {"eos_token": "</s>"})
    mapping = {"eos_token": "<s>", "pad_token": {"content": "<s>"}, "additional_special_tokens": ["a"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(mapping), encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).role_tokens == {"eos": "<s>", "pad": "<s>"}


def test_zoo_roles_are_those_of_the_config(family: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    config = zoo[family].config
    expected = {k.removesuffix("_token"): v for k, v in config.items() if k.endswith("_token")}
    assert zoo[family].role_tokens == expected
    assert expected


# --- tokens that only the config adds ------------------------------------------------------------


def entry(content: str, *, special: bool = True) -> dict[str, Any]:
    return {k: v for k, v in added(content, 0, special=special).items() if k != "id"}


def test_tokens_that_only_the_config_declares_are_added(load: Callable[..., TokenizerFiles]) -> None:
    declared = {"4": entry("<x>"), "5": entry("<y>", special=False), "2": entry("<s>")}
    files = load(SMALL, {"added_tokens_decoder": declared, "pad_token": "<x>"})
    vocabulary = files.vocabulary
    assert [t.id for t in vocabulary] == [0, 1, 2, 3, 4, 5]
    assert (vocabulary.by_id[4].spelling, vocabulary.by_id[4].kind) == ("<x>", TokenKind.SPECIAL)
    assert (vocabulary.by_id[5].spelling, vocabulary.by_id[5].kind) == ("<y>", TokenKind.ADDED)
    assert vocabulary.roles == {"pad": 4}
    assert files.fast_tokenizer().encode("a<y>b").ids == [0, 5, 1]


def test_a_config_that_declares_nothing_new_changes_nothing(load: Callable[..., TokenizerFiles]) -> None:
    files = load(SMALL, {"added_tokens_decoder": {"2": entry("<s>"), "3": entry("</s>")}})
    assert files.definition == SMALL


def test_config_tokens_of_a_unigram_tokenizer_keep_their_ids(
    load: Callable[..., TokenizerFiles], zoo: Mapping[str, TokenizerFiles]
) -> None:
    unigram = zoo["unigram"]
    definition = dict(unigram.definition) | {"added_tokens": []}
    declared = {str(e["id"]): entry(e["content"]) for e in unigram.definition["added_tokens"]}
    files = load(definition, dict(unigram.config) | {"added_tokens_decoder": declared})
    assert files.vocabulary == unigram.vocabulary


@pytest.mark.parametrize(
    "declared",
    [{"four": entry("<x>")}, {"4": "<x>"}, {"4": {"content": 4}}, []],
    ids=["id is a word", "entry is a string", "content is a number", "a list"],
)
def test_wrong_config_tokens_are_one_clear_error(load: Callable[..., TokenizerFiles], declared: Any) -> None:
    with pytest.raises(TokenAdaptError):
        _ = load(SMALL, {"added_tokens_decoder": declared}).vocabulary


# --- the rest ------------------------------------------------------------------------------------


def test_the_chat_template_file_wins_over_the_config(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, SMALL, {"chat_template": "from the config"})
    assert load_tokenizer(str(tmp_path)).chat_template == "from the config"
    (tmp_path / "chat_template.jinja").write_text("from the file ▁", encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).chat_template == "from the file ▁"


def test_of_several_named_templates_the_default_is_taken(load: Callable[..., TokenizerFiles]) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "talk"}]
    assert load(SMALL, {"chat_template": named}).chat_template == "talk"
    assert load(SMALL, {"chat_template": named[:1]}).chat_template is None


def test_the_zoo_has_a_chat_template(zoo: Mapping[str, TokenizerFiles]) -> None:
    assert zoo["byte-level"].chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({"vocab_size": 640}, 640),
        ({"text_config": {"vocab_size": 700}}, 700),
        ({"vocab_size": 640, "text_config": {"vocab_size": 700}}, 640),
        ({"hidden_size": 32}, None),
        ({"text_config": None}, None),
    ],
    ids=["plain", "nested", "both", "none", "null"],
)
def test_rows_of_the_model_beside_the_tokenizer(tmp_path: Path, config: dict[str, Any], rows: int | None) -> None:
    write_tokenizer(tmp_path, SMALL)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).model_rows == rows


def test_files_are_the_tokenizers_own_only(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, SMALL, {"eos_token": "</s>"})
    for name in ("config.json", "model.safetensors", "generation_config.json", "notes.txt", "tokenizer.model"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    files = load_tokenizer(str(tmp_path)).files()
    assert [f.name for f in files] == ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]


def test_the_fast_tokenizer_is_the_one_on_disk(tokenizer: TokenizerFiles) -> None:
    from tokenizers import Tokenizer

    text = "The river 河 <tool> 12   x"
    on_disk = Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
    assert tokenizer.fast_tokenizer().encode(text).ids == on_disk.encode(text).ids


def test_a_model_without_a_type_gets_the_one_that_the_library_finds(
    family: str, built_families: Mapping[str, Built], load: Callable[..., TokenizerFiles], tokenizer: TokenizerFiles
) -> None:
    definition, config = built_families[family]
    model = {key: value for key, value in definition["model"].items() if key != "type"}
    files = load({**definition, "model": model}, config)
    assert files.definition["model"]["type"] == definition["model"]["type"]
    assert files.vocabulary == tokenizer.vocabulary


def test_transformers_loads_every_zoo_tokenizer(tokenizer_folder: Path, tokenizer: TokenizerFiles) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert loaded.get_vocab() == tokenizer.fast_tokenizer().get_vocab()
    assert loaded.eos_token == tokenizer.role_tokens.get("eos")


def test_tiny_models_generate(
    tokenizer_folder: Path, tiny_model_folder: Callable[..., Path], tmp_path: Path, tokenizer: TokenizerFiles
) -> None:
    """The factory that other tests build on."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_model_folder(tokenizer_folder, tmp_path, tied=False, dtype=torch.bfloat16, seed=1, rows=700)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight.shape == (700, 32)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    roles = tokenizer.vocabulary.roles
    assert model.config.eos_token_id == roles.get("eos", roles.get("sep"))
    assert model.generation_config.pad_token_id == roles["pad"]
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False).shape[1] >= 4
    assert load_tokenizer(str(folder)).vocabulary == tokenizer.vocabulary


def test_a_metaspace_definition_round_trips(load: Callable[..., TokenizerFiles]) -> None:
    files = load(plain_definition(["▁a", "a"], decoder=METASPACE, pre_tokenizer=METASPACE))
    assert [t.bytes for t in files.vocabulary] == [b" a", b"a"]
