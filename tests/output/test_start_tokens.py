"""The warning where the base model reads a start token before each text and the target's tokenizer puts none there."""

import json
import shutil

import pytest

from mergekit_tokenadapt.output.start_tokens import warn_of_start_token
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
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


def _mapping(base, target):
    return match(base.vocabulary, target.vocabulary)


def test_a_start_token_that_is_lost_is_named_with_the_token_that_has_its_row(plain, with_start, caplog):
    warn_of_start_token(with_start, plain, _mapping(with_start, plain))
    spelling = plain.vocabulary.by_id[plain.vocabulary.roles["bos"]].spelling
    assert f"the base model reads {spelling!r} before each text" in caplog.text
    assert f"Put {spelling!r}, which has its row, before each text" in caplog.text


def test_where_no_token_has_its_row_the_option_is_named(with_start, plain, caplog):
    mapping = _mapping(with_start, plain)
    mapping.sources[mapping.sources == with_start.vocabulary.roles["bos"]] = -1
    warn_of_start_token(with_start, plain, mapping)
    assert "No token of the target has its row: token_map: {" in caplog.text


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
