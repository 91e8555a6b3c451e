"""Chat templates on their way into the output: named ones, lost ones, and markers that are not one token."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tokenizers_zoo import CHAT_TEMPLATE, added, write_tokenizer
from transplanting import edit_json, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output.limits import model_max_length
from mergekit_tokenadapt.output.templates import choose_templates, warn_of_templates, with_mapped_markers
from mergekit_tokenadapt.tokenizer.chat_templates import read_templates, write_templates
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.transfer.matching import match

NAMED = {"default": "{{ 'D' }}", "tool_use": "{{ 'T' }}", "rag": "{{ 'R\r\n' }}"}


def as_list(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=[{"name": n, "template": t} for n, t in NAMED.items()])


def as_mapping(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=NAMED)


def as_files(folder: Path) -> None:
    write_templates(folder, NAMED)


FORMS = {"list": as_list, "mapping": as_mapping, "files": as_files}


@pytest.mark.parametrize("whose", ["target", "base"])
@pytest.mark.parametrize("form", FORMS)
def test_named_templates_are_carried_along(
    whose: str, form: str, zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    target = load_tokenizer(str(zoo_folders["gemma-style"]))
    target = write_tokenizer(tmp_path / "target", target.definition, target.config)
    FORMS[form](target if whose == "target" else base)
    out = transplant(base, target, tmp_path / "out", chat_template=whose)
    assert load_tokenizer(str(out)).chat_templates == NAMED
    assert set(AutoTokenizer.from_pretrained(str(out)).chat_template) == set(NAMED)


def test_files_win_over_the_config(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_templates(tmp_path, {"chat_template": "config"}) == {"default": "file"}


def test_a_name_that_is_a_path_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_templates(folder, {"default": "a", "../../stolen": "b", "..": "c", "x/y": "d", "tool_use": "e"})
    written = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert written == ["out/additional_chat_templates/tool_use.jinja", "out/chat_template.jinja"]
    assert caplog.text.count("is left out") == 3


# --- lost templates and markers ------------------------------------------------------------------


def said(
    caplog: pytest.LogCaptureFixture, chosen: Mapping[str, str], choice: str, base: TokenizerFiles, to: TokenizerFiles
) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_templates(chosen, choice, base, to, match(base.vocabulary, to.vocabulary))
    return caplog.text


@pytest.fixture
def chatty(zoo: Mapping[str, TokenizerFiles]) -> TokenizerFiles:
    """Its template's markers are tokens of its own."""
    assert zoo["byte-level"].chat_template == CHAT_TEMPLATE
    return zoo["byte-level"]


def test_a_lost_template_is_said_with_the_option_that_keeps_it(
    chatty: TokenizerFiles, zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    silent = zoo["gemma-style"]
    assert not silent.chat_templates
    text = said(caplog, {}, "target", chatty, silent)
    assert "the base model has a chat template" in text
    assert "--chat-template base" in text
    assert "token_map: {" in text, "ready to paste"
    assert said(caplog, {}, "target", silent, zoo["unigram"]) == "", "nothing is lost"
    assert said(caplog, {}, "target", chatty, chatty) != "", "the same tokenizer, its template taken out"


def test_the_template_of_a_base_without_one_does_not_remove_the_targets(
    chatty: TokenizerFiles, zoo: Mapping[str, TokenizerFiles]
) -> None:
    silent = zoo["gemma-style"]
    with pytest.raises(TokenAdaptError, match=r"chat_template: base: .* has no chat template, and .* has one"):
        choose_templates("base", silent, chatty)
    assert choose_templates("base", silent, zoo["unigram"]) == {}
    assert choose_templates("base", chatty, silent) == choose_templates("base", chatty, chatty) == chatty.chat_templates


def test_the_advised_token_map_mends_the_template(
    zoo_folders: Mapping[str, Path],
    tiny_model_folder: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "base")
    target = zoo_folders["gemma-style"]
    transplant(base, target, tmp_path / "first", chat_template="base")
    advice = next(r.message for r in caplog.records if "token_map: " in r.message)
    pairs = json.JSONDecoder().raw_decode(advice.split("token_map: ")[1])[0]
    caplog.clear()
    out = transplant(base, target, tmp_path / "second", chat_template="base", token_map=pairs)
    made = load_tokenizer(str(out))
    assert "token_map" not in caplog.text
    for old, new in pairs.items():
        assert old not in made.chat_template
        assert new in made.chat_template
        assert len(made.fast_tokenizer().encode(new, add_special_tokens=False).ids) == 1


def test_a_marker_with_a_role_is_advised_the_token_that_has_its_row(
    chatty: TokenizerFiles, zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    """<|im_end|> is the base's eos: the target's eos has its row already, and an unused token has not."""
    target = zoo["gemma-style"]
    text = said(caplog, {}, "target", chatty, target)
    pairs = json.JSONDecoder().raw_decode(text.split("token_map: ")[1])[0]
    assert chatty.role_tokens["eos"] == "<|im_end|>"
    assert pairs["<|im_end|>"] == target.role_tokens["eos"]


def test_a_marker_that_the_target_has_stays(chatty: TokenizerFiles, load: Callable[..., TokenizerFiles]) -> None:
    definition = json.loads(json.dumps(chatty.definition))
    definition["added_tokens"] += [added("<other>", chatty.vocabulary.num_ids)]
    target = load(definition)
    templates = {"default": "<|im_start|>{{ x }}"}
    assert with_mapped_markers(templates, {"<|im_start|>": "<other>"}, target) == templates


def test_text_that_was_text_in_the_base_needs_no_token(
    chatty: TokenizerFiles, zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    """[INST] is no token of Llama 2 either."""
    chosen = {"default": "[INST] {{ text }} [/INST]"}
    assert said(caplog, chosen, "base", chatty, zoo["gemma-style"]) == ""
    assert "[INST]" in said(caplog, chosen, "target", chatty, zoo["gemma-style"])


# --- model_max_length ----------------------------------------------------------------------------

TABLE, TURNING = {"max_position_embeddings": 64}, {"max_position_embeddings": 64, "rope_theta": 1e4}
ENDLESS = 1000000000000000019884624838656


@pytest.mark.parametrize(
    ("config", "base", "target", "expected"),
    [
        (TABLE, 64, 131072, 64),
        (TABLE, 64, 16, None),
        (TABLE, 64, 64, None),
        (TABLE, 32, 131072, 32),
        (TABLE, 128, 131072, 64),
        (TABLE, 131072, 131072, 64),
        (TABLE, None, 131072, 64),
        (TABLE, 64, None, 64),
        (TABLE, 64, ENDLESS, 64),
        (TABLE, None, None, None),
        (TABLE, ENDLESS, 1e30, None),
        (TURNING, None, 131072, 64),
        (TURNING, 131072, 131072, None),
        (TURNING, 64, None, None),
        ({"n_positions": 64}, None, 100, 64),
        ({"text_config": TABLE}, None, 100, 64),
        ({}, 50, 100, 50),
        ({}, None, 100, None),
    ],
)
def test_the_smaller_limit_is_stated(
    config: Mapping[str, object], base: float | None, target: float | None, expected: int | None
) -> None:
    limits = [{} if value is None else {"model_max_length": value} for value in (base, target)]
    assert model_max_length(config, limits[0], limits[1]) == expected


def test_positions_that_follow_the_pad_token_are_fewer() -> None:
    assert model_max_length({"max_position_embeddings": 514}, {}, {"model_max_length": 8192}, first=2) == 512


def test_the_limit_is_written_and_the_rest_of_the_config_kept(
    zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model_folder(zoo_folders["sentencepiece-bpe"], tmp_path / "base")
    files = load_tokenizer(str(zoo_folders["byte-level"]))
    target = write_tokenizer(tmp_path / "target", files.definition, {**files.config, "model_max_length": 10**6})
    written = json.loads((transplant(base, target, tmp_path / "out") / "tokenizer_config.json").read_text())
    assert written == {**files.config, "model_max_length": 512}
