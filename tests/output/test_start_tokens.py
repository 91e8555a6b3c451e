"""The token that the base model reads before each text, and `start_token: base`, which keeps it."""

import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import tokenizers_zoo
from transformers import AutoTokenizer
from transplanting import edit_json, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks import Status
from mergekit_tokenadapt.evaluation.checks.tokens import check_start_token
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.output.start_tokens import start_tokens_of_base, warn_of_end_token, warn_of_start_token
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens, trailing_tokens
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.post_processors import with_leading_tokens
from mergekit_tokenadapt.transfer.matching import match


@pytest.fixture
def plain(byte_level_folder):
    return load_tokenizer(str(byte_level_folder))


@pytest.fixture
def with_start(byte_level_folder, tmp_path):
    """The same tokenizer, but it puts its start token before each text."""
    folder = shutil.copytree(byte_level_folder, tmp_path / "with-start")
    definition = json.loads((folder / "tokenizer.json").read_text())
    start = load_tokenizer(str(byte_level_folder)).vocabulary
    token = start.by_id[start.roles["bos"]]
    piece = {"SpecialToken": {"id": token.spelling, "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [piece, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token.spelling: {"id": token.spelling, "ids": [token.id], "tokens": [token.spelling]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return load_tokenizer(str(folder))


def test_leading_tokens_are_those_before_a_text(plain, with_start):
    assert leading_tokens(plain) == ()
    assert leading_tokens(with_start) == (with_start.vocabulary.roles["bos"],)


@pytest.fixture
def with_end(load, plain):
    """The same tokenizer, but it puts its end token after each text, as T5's does."""
    text, token = {"Sequence": {"id": "A", "type_id": 0}}, plain.vocabulary.by_id[plain.vocabulary.roles["eos"]]
    piece = {"SpecialToken": {"id": token.spelling, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [text, piece],
        "pair": [text, piece, {"Sequence": {"id": "B", "type_id": 0}}, piece],
        "special_tokens": {token.spelling: {"id": token.spelling, "ids": [token.id], "tokens": [token.spelling]}},
    }
    return load({**plain.definition, "post_processor": template}, plain.config)


def test_trailing_tokens_are_those_after_a_text(plain, with_start, with_end):
    assert trailing_tokens(plain) == trailing_tokens(with_start) == leading_tokens(with_end) == ()
    assert trailing_tokens(with_end) == (with_end.vocabulary.roles["eos"],)


def test_an_end_token_that_is_lost_is_named_with_the_token_that_has_its_row(plain, with_end, caplog):
    warn_of_end_token(with_end, plain, _mapping(with_end, plain))
    spelling = plain.vocabulary.by_id[plain.vocabulary.roles["eos"]].spelling
    assert f"the base model reads {spelling!r} after each text" in caplog.text
    assert f"let the post_processor of its tokenizer.json put {spelling!r} there, which has its row" in caplog.text
    caplog.clear()
    for base, target in ((with_end, with_end), (plain, with_end), (plain, plain)):
        warn_of_end_token(base, target, _mapping(base, target))
    assert not caplog.text


def test_a_transplant_warns_of_a_lost_end_token(with_end, byte_level_folder, tmp_path, caplog):
    base = tokenizers_zoo.tiny_model_folder(with_end.folder, tmp_path / "base")
    transplant(base, byte_level_folder, tmp_path / "out", method="mean")
    assert "after each text" in caplog.text


def _mapping(base, target):
    return match(base.vocabulary, target.vocabulary)


def test_a_start_token_that_is_lost_is_named_with_the_token_that_has_its_row(plain, with_start, caplog):
    warn_of_start_token(with_start, plain, _mapping(with_start, plain))
    spelling = plain.vocabulary.by_id[plain.vocabulary.roles["bos"]].spelling
    assert f"the base model reads {spelling!r} before each text" in caplog.text
    assert f"start_token: base (--start-token base) lets the output's tokenizer put {spelling!r} there" in caplog.text


def test_where_no_token_has_its_row_the_option_is_named(with_start, plain, caplog):
    mapping = _mapping(with_start, plain)
    mapping.sources[plain.vocabulary.roles["bos"]] = with_start.vocabulary.roles["eos"]
    warn_of_start_token(with_start, plain, mapping)
    spelling = plain.vocabulary.by_id[plain.vocabulary.roles["bos"]].spelling
    advice = f"no token of the target has the row of {spelling!r}: its tokenizer.json has no unused special token"
    assert advice in caplog.text
    with pytest.raises(TokenAdaptError, match=f"^start_token: base: {re.escape(advice)}"):
        start_tokens_of_base(with_start, plain, mapping, {})


def test_the_bos_token_of_the_target_is_named_where_it_has_no_counterpart(with_start, plain):
    mapping = _mapping(with_start, plain)
    mapping.sources[plain.vocabulary.roles["bos"]] = -1
    spelling = re.escape(plain.vocabulary.by_id[plain.vocabulary.roles["bos"]].spelling)
    with pytest.raises(TokenAdaptError, match=rf"--token-map '{spelling}={spelling}'\) gives it to one"):
        start_tokens_of_base(with_start, plain, mapping, {})


def test_of_several_tokens_with_its_row_none_is_taken_that_is_pad(with_start, plain):
    """Qwen's tokenizer has no bos; its pad token gets the row of the start token where that is the base's pad, too."""
    base = with_start.vocabulary.roles["bos"]
    roles = {role: token_id for role, token_id in plain.vocabulary.roles.items() if role != "bos"}
    target = tokenizers_zoo.files_of(plain.definition, replace(plain.vocabulary, roles=roles))
    mapping = _mapping(with_start, plain)
    pad, other = roles["pad"], plain.vocabulary.num_ids - 1
    mapping.sources[:] = -1
    mapping.sources[[pad, other]] = base
    assert pad < other
    assert [token.id for token in start_tokens_of_base(with_start, target, mapping, {})] == [other]


@pytest.mark.parametrize("names", [("plain", "plain"), ("plain", "with_start"), ("with_start", "with_start")])
def test_otherwise_there_is_no_warning(request, names, caplog):
    base, target = (request.getfixturevalue(name) for name in names)
    warn_of_start_token(base, target, _mapping(base, target))
    assert not caplog.text


def test_an_id_that_is_no_token_is_not_missed(with_start, plain, caplog):
    definition = json.loads((with_start.folder / "tokenizer.json").read_text())
    (token,) = definition["post_processor"]["special_tokens"].values()
    token["ids"] = [100_000]
    (with_start.folder / "tokenizer.json").write_text(json.dumps(definition))
    base = load_tokenizer(str(with_start.folder))
    assert leading_tokens(base) == (100_000,)
    warn_of_start_token(base, plain, _mapping(base, plain))
    assert not caplog.text


def test_a_tokenizer_that_adds_nothing_need_not_be_able_to_read_a_text(tmp_path):
    model = {"type": "WordLevel", "vocab": {"the": 0}, "unk_token": "[UNK]"}  # it cannot encode "a"
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    assert leading_tokens(load_tokenizer(str(tmp_path))) == ()


def _readings(folder):
    """The ids of a text as AutoTokenizer reads the folder, and as its tokenizer.json says."""
    return [
        AutoTokenizer.from_pretrained(str(folder))("a b").input_ids,
        load_tokenizer(str(folder)).fast_tokenizer().encode("a b").ids,
    ]


@pytest.mark.parametrize("choice", ["target", "base"])
def test_the_output_puts_the_start_token_there_if_told(
    with_start, gemma_style_folder, tiny_model_folder, tmp_path, choice, caplog
):
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        out = transplant(base, gemma_style_folder, tmp_path / "out", start_token=choice)
    target = load_tokenizer(str(gemma_style_folder))
    text = target.fast_tokenizer().encode("a b").ids
    start = [target.vocabulary.roles["bos"]] if choice == "base" else []
    assert _readings(out) == [start + text] * 2
    assert ("the base model reads" in caplog.text) == (choice == "target")
    manifest = json.loads((out / "tokenadapt.json").read_text())
    spelling = with_start.vocabulary.by_id[with_start.vocabulary.roles["bos"]].spelling
    assert manifest.get("lost_start_token") == (spelling if choice == "target" else None)
    for given in (None, open_model(str(base))):
        found = check_start_token(open_model(str(out)), given)
        assert found.status == (Status.NOTED if choice == "target" else Status.PASSED)
        assert ("--start-token base" in found.message) == (choice == "target")
    same = [
        name for name in ("tokenizer.json", "tokenizer_config.json") if _bytes(out, name) == _bytes(target.folder, name)
    ]
    assert ("tokenizer.json" in same) == (choice == "target")


def _bytes(folder, name):
    return (folder / name).read_bytes() if (folder / name).is_file() else None


def test_a_start_token_that_the_base_does_not_have_goes(with_start, gemma_style_folder, tiny_model_folder, tmp_path):
    base = tiny_model_folder(gemma_style_folder, tmp_path / "base")
    assert (
        _readings(transplant(base, with_start.folder, tmp_path / "as-target"))[0][0]
        == with_start.vocabulary.roles["bos"]
    )
    out = transplant(base, with_start.folder, tmp_path / "out", start_token="base")
    assert _readings(out) == [with_start.fast_tokenizer().encode("a b", add_special_tokens=False).ids] * 2


def _without_bos(folder, copy, *, has_config=True):
    """A copy of a tokenizer that names no bos token, although it has one of that spelling."""
    files = load_tokenizer(str(folder))
    config = {key: value for key, value in files.config.items() if key != "bos_token"}
    definition = json.loads((folder / "tokenizer.json").read_text())
    return tokenizers_zoo.write_tokenizer(copy, definition, config if has_config else None)


@pytest.mark.parametrize("bos_stays", [True, False])
def test_token_map_chooses_the_start_token_and_bos_has_its_row(
    gemma_style_folder, byte_level_folder, tiny_model_folder, tmp_path, bos_stays
):
    """In SmolLM2's tokenizer, <|im_start|> is bos, and begins the turns of a chat, too."""
    files = load_tokenizer(str(gemma_style_folder))
    definition = {
        **json.loads((gemma_style_folder / "tokenizer.json").read_text()),
        "post_processor": with_leading_tokens(None, [files.vocabulary.by_spelling["<bos>"]]),
    }
    folder = tokenizers_zoo.write_tokenizer(tmp_path / "gemma", definition, files.config)
    base = tiny_model_folder(folder, tmp_path / "base")
    target = shutil.copytree(byte_level_folder, tmp_path / "target")
    (target / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    token_map = {"<bos>": "<|endoftext|>", **({} if bos_stays else {"<start_of_turn>": "<|im_start|>"})}
    out = transplant(base, target, tmp_path / "out", start_token="base", token_map=token_map)
    tokens = load_tokenizer(str(out)).vocabulary.by_spelling
    assert [ids[0] for ids in _readings(out)] == [tokens["<|endoftext|>"].id] * 2
    bos = tokens["<|im_start|>" if bos_stays else "<|endoftext|>"]
    assert AutoTokenizer.from_pretrained(str(out)).bos_token == bos.spelling
    assert json.loads((out / "special_tokens_map.json").read_text())["bos_token"] == bos.spelling
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == bos.id


@pytest.mark.parametrize("has_config", [True, False])
def test_the_models_config_names_the_token_that_becomes_bos(
    with_start, byte_level_folder, tiny_model_folder, tmp_path, has_config
):
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    target = _without_bos(byte_level_folder, tmp_path / "target", has_config=has_config)
    out = transplant(base, target, tmp_path / "out", start_token="base")
    bos = with_start.vocabulary.roles["bos"]
    assert AutoTokenizer.from_pretrained(str(out)).bos_token_id == bos
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == bos
    assert json.loads((out / "generation_config.json").read_text())["bos_token_id"] == bos


def test_transformers_4_puts_no_token_there_either(byte_level_folder, with_start, tiny_model_folder, tmp_path):
    """Its class for Llama's tokenizers has a key of its own, which is true by default."""
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    out = transplant(base, with_start.folder, tmp_path / "out", start_token="base")
    assert json.loads((out / "tokenizer_config.json").read_text())["add_bos_token"] is False


def _refused_post_processor(folder, copy):
    """A copy of a tokenizer with a post-processor that `start_token: base` cannot change."""
    copy = shutil.copytree(folder, copy)
    definition = json.loads((copy / "tokenizer.json").read_text())
    roles, by_id = (getattr(load_tokenizer(str(copy)).vocabulary, name) for name in ("roles", "by_id"))
    bos, eos = (by_id[roles[role]] for role in ("bos", "eos"))
    definition["post_processor"] = {
        "type": "RobertaProcessing",
        "cls": [bos.spelling, bos.id],
        "sep": [eos.spelling, eos.id],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    (copy / "tokenizer.json").write_text(json.dumps(definition))
    return copy


def test_nothing_is_changed_where_the_target_puts_these_tokens_there(
    with_start, byte_level_folder, tiny_model_folder, tmp_path
):
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    target = _refused_post_processor(byte_level_folder, tmp_path / "target")
    out = transplant(base, target, tmp_path / "out", start_token="base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert _bytes(out, name) == _bytes(target, name)


def test_a_class_that_is_code_of_the_target_is_not_asked(
    with_start, gemma_style_folder, tiny_model_folder, tmp_path, caplog
):
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    target = shutil.copytree(gemma_style_folder, tmp_path / "target")
    edit_json(
        target / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]},
    )
    out = transplant(base, target, tmp_path / "out", start_token="base")
    assert "contains custom code" in caplog.text
    found = json.loads((out / "tokenizer.json").read_text())["post_processor"]["single"][0]
    assert found["SpecialToken"]["id"] == load_tokenizer(str(gemma_style_folder)).config["bos_token"]


@pytest.mark.parametrize(
    ("of_base", "of_target", "is_lost"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}", True),
        (None, "{{ messages[0].content }}", True),
        ("{{ messages[0].content }}", "{{ messages[0].content }}", False),
        (None, "{{ bos_token }}{{ messages[0].content }}", False),
        (None, "<bos>{{ messages[0].content }}", False),
    ],
)
@pytest.mark.parametrize("has_bos", [True, False])
def test_a_chat_template_that_does_not_write_the_start_token_gives_a_warning(
    with_start, gemma_style_folder, tiny_model_folder, tmp_path, caplog, of_base, of_target, is_lost, has_bos
):
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    edit_json(base / "tokenizer_config.json", chat_template=of_base)
    target = shutil.copytree(gemma_style_folder, tmp_path / "target")
    edit_json(target / "tokenizer_config.json", chat_template=of_target, **({} if has_bos else {"bos_token": None}))
    mapped = {with_start.vocabulary.by_id[with_start.vocabulary.roles["bos"]].spelling: "<bos>"}
    out = transplant(base, target, tmp_path / "out", start_token="base", token_map=mapped)
    assert ("chats begin without it" in caplog.text) == is_lost
    chat = AutoTokenizer.from_pretrained(str(out)).apply_chat_template(
        [{"role": "user", "content": "a"}], return_dict=False
    )
    start = load_tokenizer(str(out)).vocabulary.roles["bos"]
    assert (chat[0] != start) == ("bos" not in of_target)


def test_a_post_processor_that_cannot_be_changed_is_refused_before_the_swap(
    gemma_style_folder, byte_level_folder, tiny_model_folder, tmp_path
):
    base = tiny_model_folder(gemma_style_folder, tmp_path / "base")
    target = shutil.copytree(byte_level_folder, tmp_path / "target")
    definition = json.loads((target / "tokenizer.json").read_text())
    bos = load_tokenizer(str(target)).vocabulary.by_id[load_tokenizer(str(target)).vocabulary.roles["bos"]]
    definition["post_processor"] = {
        "type": "BertProcessing",
        "sep": [bos.spelling, bos.id],
        "cls": [bos.spelling, bos.id],
    }
    (target / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(TokenAdaptError, match="cannot be changed in a post-processor BertProcessing"):
        transplant(base, target, tmp_path / "out", start_token="base")
    assert not (tmp_path / "out").exists()


def test_where_the_target_has_no_bos_token_the_mapped_one_becomes_it(
    gemma_style_folder, with_start, tiny_model_folder, tmp_path
):
    """Programs that start a text themselves take bos, or else eos, and eos has another row."""
    base = tiny_model_folder(with_start.folder, tmp_path / "base")
    bos = with_start.vocabulary.by_id[with_start.vocabulary.roles["bos"]].spelling
    target = load_tokenizer(str(gemma_style_folder))
    definition = json.loads((gemma_style_folder / "tokenizer.json").read_text())
    spare = tokenizers_zoo.added("<spare>", target.vocabulary.num_ids)
    definition["added_tokens"] = [*definition["added_tokens"], spare]
    config = {key: value for key, value in target.config.items() if key != "bos_token"}
    folder = tokenizers_zoo.write_tokenizer(tmp_path / "target", definition, config)
    with pytest.raises(TokenAdaptError, match=rf"{re.escape(bos)}.*--token-map '.*=<spare>'\) gives it to one"):
        transplant(base, folder, tmp_path / "out", start_token="base")
    out = transplant(base, folder, tmp_path / "out", start_token="base", token_map={bos: "<spare>"})
    assert [ids[0] for ids in _readings(out)] == [spare["id"]] * 2
    assert load_tokenizer(str(out)).vocabulary.roles["bos"] == spare["id"]
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == spare["id"]
